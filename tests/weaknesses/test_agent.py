"""W-46, W-48 to W-50, W-54, W-56 and W-57: the agent's process and its files."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.service import EXIT_INIT, compose
from ovirt_he_ha.config import text
from ovirt_he_ha.config.files import load_ha_conf, save_ha_conf
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import EngineStatus, Health, LeaseId, Outcome, Record, State, Vm
from ovirt_he_ha.lab.layout import Lab
from tests.agent.test_collect import Bench as CollectBench
from tests.agent.test_definition_source import Bench as DefinitionBench
from tests.agent.test_service import write_conf
from tests.broker.test_handlers import Bench as BrokerBench
from tests.cli.world import World as Host
from tests.cli.world import record as host_record
from tests.cli.world import run as hosted_engine
from tests.core.world import World, codes

ROOT = Path(__file__).resolve().parents[2]
with_bindings = [
    pytest.mark.system_python,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("libvirt", "sanlock")),
        reason="a binding is missing: libvirt or sanlock",
    ),
]


class TestProcess:
    pytestmark = with_bindings

    def test_w46_in_local_maintenance_a_signal_ends_it_at_once(self, tmp_path):
        paths = write_conf(tmp_path, {})
        save_ha_conf(paths.ha_conf, local_maintenance=True, manual=True)
        env = {"PATH": os.environ["PATH"], "OVIRT_HE_ROOT": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        agent = subprocess.Popen(
            [sys.executable, "-m", "ovirt_he_ha.agent.service"], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
        )
        try:
            assert agent.stderr.readline()  # it has looked for its broker: the loop runs
            begun = time.monotonic()
            agent.send_signal(signal.SIGTERM)
            # No broker took its final record: that is no success.
            assert agent.wait(10) == EXIT_INIT
            assert time.monotonic() - begun < 5
        finally:
            agent.kill()
            agent.communicate()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_w48_a_defect_in_the_loop_is_no_orderly_end(self, tmp_path, monkeypatch):
        agent = compose(write_conf(tmp_path, {}))
        monkeypatch.setattr(type(agent), "_register", lambda self: None)

        def fail(self, stopping=False):
            raise LookupError("a defect")

        monkeypatch.setattr(Cycle, "run_one_cycle", fail)
        assert agent.run() == EXIT_INIT

    def test_w13_stopping_what_is_not_there_is_done(self):
        from ovirt_he_ha.config.clock import SystemClock
        from ovirt_he_ha.hypervisor.connection import Connection
        from ovirt_he_ha.hypervisor.engine_vm import LibvirtEngineVm

        clock, lease = SystemClock(1.0), LeaseId("sd", "vol", "/d/vol.lease")
        vm = LibvirtEngineVm(Connection("test:///default", clock), str(UUID(int=13)), lease, clock)
        assert vm.shutdown(5.0).outcome is Outcome.OK
        assert vm.destroy(5.0).outcome is Outcome.OK

    def test_w56_a_libvirt_that_is_not_there_is_an_error_and_never_a_success(self):
        from ovirt_he_ha.config.clock import SystemClock
        from ovirt_he_ha.hypervisor.connection import Connection, Unreachable

        connection = Connection("qemu+unix:///system?socket=/nonexistent", SystemClock(1.0))
        for _ in range(3):
            with pytest.raises(Unreachable):
                connection.call("look", lambda native: native.listAllDomains(0), 5)


def test_w48_a_stop_without_its_final_record_and_a_start_without_configuration_are_failures():
    from ovirt_he_ha.agent import service

    assert 0 not in (service.EXIT_INIT, service.EXIT_NOT_CONFIGURED)


def test_w49_the_final_record_is_on_the_volume_before_the_id_is_given_back():
    bench = BrokerBench()
    bench.call("lock_host_id", 1)
    bench.board.tick()
    final = slot.encode(Record(1, 7, 0, EngineStatus(Vm.DOWN, Health.BAD), "h1", stopped=True), 0.0)
    assert bench.call("put_stats", 1, final) == "ok"
    assert bench.volume.slot(1) == final
    assert bench.call("release_host_id") == "ok"
    assert bench.volume.slot(1) == final


def test_w50_a_slot_is_cleaned_although_the_broker_has_measured_nothing_yet(monkeypatch):
    host = Host()
    try:
        monkeypatch.setenv("OVIRT_HE_ROOT", str(host.root))
        host.facts = type(host.facts)(host_id=1, slots_age=0.0, leases=host.facts.leases, storage=host.facts.storage)
        host.publish(host_record(1, stopped=True))
        host.alive = []
        host.start_broker()
        assert hosted_engine("--clean-metadata").status == 0
        assert host.written == [(1, bytes(4096))]
    finally:
        host.close()


# --- vm.conf ----------------------------------------------------------------------------------------------------------


def test_w54_vm_conf_is_written_when_it_changes_as_a_whole_and_silently(tmp_path, capsys):
    bench = DefinitionBench(tmp_path, Lab(str(tmp_path / "lab"), 1, 1.0, "10.77.0.0/24", "10.77.1.0/24", "python3", ""))
    source = bench.source()
    source.refresh()
    first = bench.effective.stat()
    for _ in range(5):
        source.refresh()
    assert (bench.effective.stat().st_ino, bench.effective.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    bench.text += "\n# changed\n"
    source.refresh()
    assert bench.effective.stat().st_ino != first.st_ino
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vm.conf", "vm.conf.fallback"]
    assert capsys.readouterr().out == ""


# --- ha.conf ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "on", "off", "?", "perhaps"])
def test_w57_an_unusual_word_in_ha_conf_stops_the_starts_and_not_the_agent(tmp_path, value):
    bench = CollectBench(tmp_path)
    bench.ha_conf.write_text(f"local_maintenance={value}\n")
    reading = bench.collect().host.local_maintenance
    assert not reading.known
    world = World()
    world.host = type(world.host)(**{**vars(world.host), "local_maintenance": reading})
    decision = world.step()
    assert decision.action is None
    assert decision.record is not None
    assert "local-maintenance-unknown" in codes(decision)


@pytest.mark.parametrize("value", ["True", "yes", "1", "true", "T"])
def test_w57_every_word_of_the_grammar_is_taken(tmp_path, value):
    (tmp_path / "ha.conf").write_text(f"# by hand\n\nlocal_maintenance = {value}\n")
    assert load_ha_conf(tmp_path / "ha.conf").maintenance


def test_w57_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "ha.conf"
    save_ha_conf(path, local_maintenance=False)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    for step in ("replace", "fsync"):
        monkeypatch.setattr(text.os, step, fail)
        with pytest.raises(OSError, match="space"):
            save_ha_conf(path, local_maintenance=True)
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["ha.conf"]


def test_w57_a_file_that_does_not_parse_is_not_rewritten(tmp_path):
    path = tmp_path / "ha.conf"
    path.write_text("local_maintenance=perhaps\n")
    with pytest.raises(ConfigError):
        save_ha_conf(path, local_maintenance=True)
    assert path.read_text() == "local_maintenance=perhaps\n"


def test_w52_a_stop_is_decided_in_the_cycle_that_hears_of_it():
    world = World(state=State.ENGINE_UP).runs()
    world.more = {"stopping": True}
    decision = world.step(0.0)
    assert (decision.state, decision.record.stopped, decision.action) == (State.AGENT_STOPPED, True, None)
