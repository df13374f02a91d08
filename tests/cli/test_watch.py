import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Iterator, List

import pytest

from ovirt_he_ha.cli import watch
from ovirt_he_ha.cli.watch import Frame, frames
from ovirt_he_ha.config.files import HostedEngineConf, load_hosted_engine_conf
from tests.cli.world import UP, World, record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def conf(world: World) -> HostedEngineConf:
    world.publish(record(1), record(2), record(3))
    return load_hosted_engine_conf(world.paths.hosted_engine_conf)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE", 0.01)
    monkeypatch.setattr(watch, "ASK", 0.05)


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


def look(world: World, conf: HostedEngineConf, count: int) -> List[Frame]:
    return list(itertools.islice(frames(world.paths, conf), count))


def test_one_look_per_change_and_none_of_the_storage(world: World, conf: HostedEngineConf, quick: None) -> None:
    """Three looks are three snapshots out of the broker's memory, each after it has told of a change."""
    found = look(world, conf, 3)
    assert [frame.view is not None for frame in found] == [True] * 3
    assert world.calls == ["snapshot", "is_host_alive", *["wait_for_change", "snapshot", "is_host_alive"] * 2]


def test_a_broker_that_cries_wolf_does_not_burn_the_processor(world: World, conf: HostedEngineConf) -> None:
    began = time.monotonic()
    look(world, conf, 3)
    assert time.monotonic() - began > 2 * watch.PAUSE * 0.9


def test_ages_and_timestamps_are_no_change(world: World, conf: HostedEngineConf, quick: None) -> None:
    (first,) = look(world, conf, 1)
    world.facts = replace(world.facts, slots_age=9.0)
    world.publish(record(1, timestamp=2000))
    (second,) = look(world, conf, 1)
    assert first.meaning == second.meaning
    for change in (lambda: world.publish(record(2, score=0)), lambda: world.publish(record(3, engine=UP))):
        change()
        (third,) = look(world, conf, 1)
        assert third.meaning != second.meaning
        second = third


def test_each_step_into_maintenance_and_its_cause_is_a_change(
    world: World, conf: HostedEngineConf, quick: None
) -> None:
    steps = [
        {"maintenance_state": "preparing", "maintenance_why": "Migrating the VM to host 3"},
        {"maintenance_state": "preparing", "maintenance_why": "Migration failed 1 time(s): no route"},
        {"maintenance_state": "error-in-preparing", "maintenance_why": "Migration given up after 3 tries: no route"},
        {"maintenance_state": "in-maintenance"},
        {"maintenance_ended": "disks are in"},
        {"global_since": "1700000000", "global_reason": "new switch"},
    ]
    seen = []
    for step in steps:
        world.publish(record(2, extra=(("state", "EngineUp"), *step.items())))
        seen.append(look(world, conf, 1)[0].meaning)
    assert len(set(map(repr, seen))) == len(steps)


def test_without_the_broker_the_volume_is_read_rarely(
    world: World, conf: HostedEngineConf, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as soon as the broker is back, it is asked again."""
    world.make_volume()
    world.lies["snapshot"] = ""
    world.lies["is_host_alive"] = {}
    looks = frames(world.paths, conf)
    first = next(looks)
    assert first.view is not None and first.view.slots.source == "volume"
    monkeypatch.setattr(watch, "LONGEST", 0.5)
    began = time.monotonic()
    second = next(looks)
    assert second.view is not None and second.view.slots.source == "volume" and time.monotonic() - began >= 0.5
    monkeypatch.setattr(watch, "LONGEST", 60.0)
    world.lies.clear()
    third = next(looks)
    assert third.view is not None and third.view.slots.source == "broker"


def ended(these: List[Frame]) -> Iterator[Frame]:
    """What the operator's Ctrl-C ends."""
    yield from these
    raise KeyboardInterrupt


def test_stream_prints_one_object_per_change(
    world: World, conf: HostedEngineConf, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = look(world, conf, 2)
    world.publish(record(2, score=0))
    changed = look(world, conf, 1)
    world.lies["snapshot"] = ""
    broken = look(world, conf, 2)
    monkeypatch.setattr(watch, "frames", lambda *_: ended([*same, *changed, *broken]))
    out = StringIO()
    with redirect_stdout(out):
        assert watch.stream(world.paths, conf, lambda view: {"hosts": len(view.hosts.slots)}) == 0
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines[:2] == [{"hosts": 3}] * 2
    assert [line["error"]["code"] for line in lines[2:]] == ["broker-garbage"]


def test_watch_draws_in_place_on_a_terminal_and_appends_elsewhere(
    world: World, conf: HostedEngineConf, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = look(world, conf, 2)
    monkeypatch.setattr(watch, "frames", lambda *_: ended(two))
    for out, tables in ((Screen(), 2), (StringIO(), 1)):
        with redirect_stdout(out):
            assert watch.watch(world.paths, conf) == 0
        assert out.getvalue().count("HOST") == tables
        assert ("\x1b[2J" in out.getvalue()) == out.isatty()


def test_a_stream_of_its_own_process_ends_with_ctrl_c(world: World, conf: HostedEngineConf) -> None:
    env = {**os.environ, "OVIRT_HE_ROOT": str(world.root), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ovirt_he_ha.cli.main", "--vm-status", "--stream"]

    def hear_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell runs in the background begins deaf to it

    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        preexec_fn=hear_ctrl_c,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "1" in json.loads(process.stdout.readline())
        world.publish(record(2, score=0))
        assert json.loads(process.stdout.readline())["2"]["score"] == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr.read() == b""
