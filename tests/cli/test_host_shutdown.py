import os
import re
import time
from pathlib import Path

import pytest

from ovirt_he_ha.cli import host_shutdown
from ovirt_he_ha.client.link import BrokerLink
from ovirt_he_ha.config import host_shutdown as word
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.timers import Timers
from tests.cli.world import UP, World, record, run
from tests.own_time import OwnTime

ROOT = Path(__file__).resolve().parents[2]
UNIT = (ROOT / "systemd" / "ovirt-ha-host-shutdown.service").read_text()


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for systemd's command; what it prints is the test's."""
    program = tmp_path / "systemctl"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return program


def answers(program: Path, text: str, more: str = "") -> None:
    program.write_text(f'#!/bin/sh\n[ "$*" = is-system-running ] || exit 9\n{more}\necho {text}\nexit 1\n')
    program.chmod(0o755)


def leaving(world: World, *states: str) -> None:
    """Each look of the command finds the next of these in this host's slot."""
    left = list(states)

    def step() -> None:
        state = left.pop(0) if left else states[-1]
        extra = (("state", "EngineUp"), ("maintenance_state", state), ("maintenance_why", "Migrating the VM to host 2"))
        world.publish(record(1, maintenance=state == "in-maintenance", extra=extra, extra_ok=True))

    step()
    world.on_wait = step


def test_it_is_told_to_the_agent_and_waited_for(world: World) -> None:
    world.engine(UP)
    leaving(world, "", "preparing", "in-maintenance")
    ran = run("--host-shutdown")
    assert ran.status == 0, ran
    assert "preparing: Migrating the VM to host 2" in ran.out and "not on this host" in ran.out
    left = word.seconds_left(world.paths.host_shutdown)
    assert left is not None and 590 < left <= 600
    assert world.paths.host_shutdown.stat().st_mode & 0o777 == 0o644
    assert not world.paths.ha_conf.exists()


def test_it_waits_no_longer_than_it_may(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_shutdown, "_MORE", 0.2)
    world.engine(UP)
    leaving(world, "preparing")
    took = OwnTime()
    ran = run("--host-shutdown", "--wait=1")
    assert ran.status == 1 and "Migrating" in ran.err and took.seconds < 8


def test_ctrl_c_ends_the_waiting_and_says_what_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_link: BrokerLink, _serial: int, _timeout: float) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(BrokerLink, "wait_for_change", interrupted)
    world.engine(UP)
    leaving(world, "preparing")
    ran = run("--host-shutdown")
    assert ran.status == 130 and "--host-shutdown --cancel" in ran.err
    assert word.seconds_left(world.paths.host_shutdown) is not None
    assert run("--host-shutdown", "--cancel").status == 0
    assert word.seconds_left(world.paths.host_shutdown) is None


@pytest.mark.parametrize("words", ["--wait=0", "--wait=3601", "--wait=long", "--now"])
def test_bad_words_change_nothing(world: World, words: str) -> None:
    assert run("--host-shutdown", words).status == 1
    assert not world.paths.host_shutdown.exists()


def test_global_maintenance_forbids_it(world: World) -> None:
    world.slots[0] = slot.encode_global(True)
    world.engine(UP)
    ran = run("--host-shutdown")
    assert ran.status == 1 and "global maintenance" in ran.err
    assert not world.paths.host_shutdown.exists()


def test_without_a_broker_nothing_is_waited_for(host: World) -> None:
    took = OwnTime()
    ran = run("--host-shutdown")
    assert ran.status == 1 and "not moved" in ran.err and took.seconds < 3


@pytest.mark.parametrize("here, status", [(True, 1), (False, 0)])
def test_an_agent_that_does_not_report_holds_nothing_up_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch, here: bool, status: int
) -> None:
    monkeypatch.setattr(host_shutdown, "_SILENCE", 0.3)
    if here:
        world.engine(UP)
    world.publish(record(1, stopped=True))
    took = OwnTime()
    assert run("--host-shutdown").status == status
    assert took.seconds < 8


def test_cancel(world: World) -> None:
    word.announce(world.paths, 100.0)
    assert run("--host-shutdown", "--cancel").status == 0
    assert not world.paths.host_shutdown.exists()
    assert run("--host-shutdown", "--cancel").status == 0


# --- systemd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["running", "degraded", "maintenance", "starting"])
def test_a_unit_that_is_stopped_by_hand_moves_nothing(world: World, systemctl: Path, state: str) -> None:
    answers(systemctl, state)
    world.engine(UP)
    assert run("--host-shutdown", "--if-going-down").status == 0
    assert not world.paths.host_shutdown.exists()


@pytest.mark.parametrize("state", ["stopping", "offline", "unknown", "''"])
def test_a_host_that_goes_down_or_may_moves_the_vm(world: World, systemctl: Path, state: str) -> None:
    answers(systemctl, state)
    leaving(world, "in-maintenance")
    assert run("--host-shutdown", "--if-going-down").status == 0
    assert world.paths.host_shutdown.exists()


def test_a_systemd_that_does_not_answer_holds_nothing_up(
    systemctl: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host_shutdown, "_ANSWER", 0.3)
    answers(systemctl, "running", "exec sleep 20")
    assert host_shutdown.goes_down() is None
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert host_shutdown.goes_down() is None


def test_the_unit_is_stopped_before_what_a_move_needs_and_waits_long_enough() -> None:
    after = " ".join(re.findall(r"^After=(.*)$", UNIT, re.M)).split()
    needed = ("ovirt-ha-agent", "ovirt-ha-broker", "sanlock", "libvirtd", "virtqemud", "libvirt-guests")
    assert {f"{name}.service" for name in needed} | {"virt-guest-shutdown.target", "network.target"} <= set(after)
    stop = re.findall(r"^ExecStop=(.*)$", UNIT, re.M)
    assert stop == ["/usr/bin/hosted-engine --host-shutdown --if-going-down"]
    limit = int(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)[0])
    assert Timers().host_shutdown + host_shutdown._MORE + host_shutdown._ANSWER < limit < Timers().host_shutdown + 60
    agent = (ROOT / "systemd" / "ovirt-ha-agent.service").read_text()
    assert "ovirt-ha-host-shutdown.service" in re.findall(r"^Wants=(.*)$", agent, re.M)[0].split()


# --- the word ---------------------------------------------------------------------------------------------------------


def test_a_word_counts_for_as_long_again_and_only_in_its_boot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.paths.host_shutdown
    assert word.seconds_left(path) is None
    word.announce(world.paths, 10.0)
    began = time.monotonic()
    for passed, expected in ((0.0, 10.0), (15.0, -5.0), (19.0, -9.0)):
        monkeypatch.setattr(word.time, "monotonic", lambda passed=passed: began + passed)
        assert word.seconds_left(path) == pytest.approx(expected, abs=0.5)
    monkeypatch.setattr(word.time, "monotonic", lambda: began + 21.0)
    assert word.seconds_left(path) is None
    monkeypatch.undo()
    path.write_text(path.read_text().replace('"boot_id": "', '"boot_id": "x'))
    assert word.seconds_left(path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"by": "soon", "seconds": 1, "boot_id": ""}', "\xff"])
def test_a_word_that_makes_no_sense_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "host-shutdown"
    path.write_bytes(text.encode("latin-1"))
    assert word.seconds_left(path) is None
