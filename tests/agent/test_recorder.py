"""The agent's recording: what is in it, what it costs on disk, and that it never costs a decision."""

import errno
import os
import resource
import stat
import threading
from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple, Union

import pytest

from ovirt_he_ha.agent import ring as ring_module
from ovirt_he_ha.agent.collect import Collector, Identity, PublishClock, Workers
from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.definition_source import Effective
from ovirt_he_ha.agent.recorder import DEFECT, KEY_EVERY, RETRY, Recorder
from ovirt_he_ha.agent.ring import OVERDUE, SHARE, Ring, RingThread
from ovirt_he_ha.agent.service import recorder_of
from ovirt_he_ha.broker.protocol import BrokerSnapshot
from ovirt_he_ha.config.files import AgentConf, ConfigError, load_agent_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.recordings import RecordingError, load, segment_name, segments
from ovirt_he_ha.core import frames, recording, slot
from ovirt_he_ha.core.frames import Damage
from ovirt_he_ha.core.model import Carried, Decision, LeaseId, Record, Snapshot
from ovirt_he_ha.core.recording import RecordedCycle
from ovirt_he_ha.core.states import decide
from ovirt_he_ha.core.timers import Timers
from tests.agent.clocks import ManualClock
from tests.agent.test_cycle import Parts
from tests.core.world import World

T = Timers()
LIMIT = 256 * 1024


class Memory:
    """A sink that keeps chunks, as (first, chunk)."""

    def __init__(self) -> None:
        self.problem = ""
        self.takes = True
        self.chunks: List[Tuple[bool, bytes]] = []

    def offer(self, data: bytes, first: bool) -> bool:
        if self.takes:
            self.chunks.append((first, data))
        return self.takes

    def close(self, seconds: float) -> None:
        self.problem = "closed"

    def cycles(self) -> List[Union[RecordedCycle, Damage]]:
        """Each segment's, one after the other."""
        files: List[bytes] = []
        for first, data in self.chunks:
            if first:
                files.append(frames.HEADER)
            files[-1] += data
        return [item for data in files for item in recording.read(data)]


def run(recorder: Recorder, count: int, world: Optional[Any] = None, after: float = 5.0) -> List[Tuple[Any, Any]]:
    world = world or World()
    done = []
    for _ in range(count):
        world.now += after
        snapshot = world.snapshot()
        decision = decide(snapshot, T)
        recorder.record(snapshot, decision, T, {})
        world.carried = decision.carried
        done.append((snapshot, decision))
    return done


def same(found: List[Union[RecordedCycle, Damage]], done: List[Tuple[Snapshot, Decision]]) -> bool:
    cycles = [(item.snapshot, item.decision) for item in found if isinstance(item, RecordedCycle)]
    return cycles == done and len(cycles) == len(found)


# --- what is recorded ------------------------------------------------------------------------------------------------


def test_every_cycle_is_recorded_after_its_action_and_before_its_slot_is_written() -> None:
    sink = Memory()
    parts = Parts(World())
    parts.raw_slots = {}  # type: ignore[attr-defined]
    parts.cycle.recorder = Recorder(sink, LIMIT)
    order: List[object] = parts.log
    offer = sink.offer
    sink.offer = lambda data, first: order.append("recorded") or offer(data, first)  # type: ignore[method-assign,func-returns-value]
    done = []
    for _ in range(4):
        parts.world.now += 5
        decision = parts.cycle.run_one_cycle()
        done.append((parts.cycle.before, decision))
    assert same(sink.cycles(), done)  # type: ignore[arg-type]
    kinds = [entry if isinstance(entry, str) else type(entry).__name__ for entry in order]
    assert kinds.index("Action") < kinds.index("recorded") < kinds.index("publish")


def test_a_cycle_that_cannot_publish_is_recorded() -> None:
    class Lost(Exception):
        pass

    sink = Memory()
    parts = Parts(World())
    parts.raw_slots = {}  # type: ignore[attr-defined]
    parts.cycle.recorder = Recorder(sink, LIMIT)

    def lost(*_: object) -> None:
        raise Lost

    parts.publish = lost  # type: ignore[method-assign]
    with pytest.raises(Lost):
        parts.cycle.run_one_cycle()
    assert len(sink.cycles()) == 1


def test_documents_that_stand_by_themselves_come_at_the_start_and_every_ten_minutes() -> None:
    sink = Memory()
    done = run(Recorder(sink, LIMIT), 130, after=10.0)
    keys = [number for number, (_, data) in enumerate(sink.chunks) if data[2:3] == b"K"]
    assert keys == [0, int(KEY_EVERY / 10), 2 * int(KEY_EVERY / 10)]
    assert [first for first, _ in sink.chunks].count(True) == 1
    assert same(sink.cycles(), done)


def test_a_clock_that_went_back_begins_anew() -> None:
    sink = Memory()
    recorder, world = Recorder(sink, LIMIT), World()
    run(recorder, 2, world)
    world.now -= 5000.0
    run(recorder, 1, world)
    assert sink.chunks[-1][1][2:3] == b"K"


def test_a_chunk_that_is_not_taken_costs_only_its_cycle() -> None:
    sink = Memory()
    recorder, world = Recorder(sink, LIMIT), World()
    done = run(recorder, 3, world)
    sink.takes = False
    run(recorder, 2, world)
    sink.takes = True
    done += run(recorder, 3, world)
    assert same(sink.cycles(), done)
    assert [item.number for item in sink.cycles() if isinstance(item, RecordedCycle)] == [1, 2, 3, 6, 7, 8]


def test_a_refusing_disk_is_tried_again_after_a_minute_and_not_before() -> None:
    sink = Memory()
    recorder, world = Recorder(sink, LIMIT), World()
    run(recorder, 2, world, after=10.0)
    sink.problem = "full"
    run(recorder, int(RETRY / 10), world, after=10.0)
    assert recorder.problem == "full"
    assert len(sink.chunks) == 2
    tried = run(recorder, 1, world, after=10.0)
    sink.problem = ""
    tried += run(recorder, 2, world, after=10.0)
    assert [first for first, _ in sink.chunks[2:]] == [True, False, False]
    assert same(sink.cycles()[2:], tried)
    assert recorder.problem == ""


def test_a_defect_of_the_recording_does_not_end_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Memory()
    recorder = Recorder(sink, LIMIT)
    run(recorder, 1)

    def broken(*_: object) -> None:
        raise TypeError("no plain form")

    monkeypatch.setattr(recorder._encoder, "following", broken)
    run(recorder, 3)
    assert recorder.problem == DEFECT
    assert len(sink.chunks) == 1


# --- the ring --------------------------------------------------------------------------------------------------------


def read(path: Path) -> List[Union[RecordedCycle, Damage]]:
    return [item for _, item in load(path)]


def total(directory: Path) -> int:
    return sum(entry.stat().st_blocks * 512 for entry in directory.iterdir())


def test_a_ring_replays_what_it_holds_and_is_for_the_daemons_user_only(tmp_path: Path) -> None:
    directory = tmp_path / "recording"
    os.umask(os.umask(0o777) & 0)  # a careless umask
    recorder = Recorder(Ring(directory, LIMIT), LIMIT // SHARE)
    done = run(recorder, 20)
    assert same(read(directory), done)
    assert stat.S_IMODE(directory.stat().st_mode) & 0o077 == 0
    assert [stat.S_IMODE(path.stat().st_mode) for _, path in segments(directory)] == [0o600]
    recorder.close(1)


def test_the_ring_stays_within_its_limit_and_keeps_the_latest(tmp_path: Path) -> None:
    ring = Ring(tmp_path, LIMIT)
    chunk = os.urandom(3000)
    written = 0
    for number in range(400):
        assert ring.offer(chunk, number % 10 == 0)
        written += len(chunk)
        assert total(tmp_path) <= LIMIT
    assert written > 4 * LIMIT
    assert total(tmp_path) > LIMIT * 3 // 4
    numbers = [number for number, _ in segments(tmp_path)]
    assert numbers == list(range(numbers[0], 41))


def test_a_segment_that_outgrows_its_share_displaces_the_older_ones_and_never_exceeds_the_limit(tmp_path: Path) -> None:
    ring = Ring(tmp_path, LIMIT)
    for _ in range(8):
        assert ring.offer(os.urandom(30_000), True)
        assert ring.offer(os.urandom(2000), False)
    while ring.offer(os.urandom(3000), False):
        assert total(tmp_path) <= LIMIT
    assert len(segments(tmp_path)) == 1
    assert ring.problem
    assert ring.offer(b"x", True)
    assert total(tmp_path) <= LIMIT


def test_a_recorder_rotates_and_every_segment_stands_by_itself(tmp_path: Path) -> None:
    recorder = Recorder(Ring(tmp_path, LIMIT), 4096)
    done = run(recorder, 100)
    found = segments(tmp_path)
    assert len(found) > 2
    assert same(read(tmp_path), done)
    found[0][1].unlink()
    rest = read(tmp_path)
    assert same(rest, done[len(done) - len(rest) :])


def test_each_life_of_the_agent_begins_a_segment_and_no_other_is_touched(tmp_path: Path) -> None:
    done = run(Recorder(Ring(tmp_path, LIMIT), LIMIT), 3)
    before = {path: path.read_bytes() for _, path in segments(tmp_path)}
    done += run(Recorder(Ring(tmp_path, LIMIT), LIMIT), 3)
    assert len(segments(tmp_path)) == 2
    assert all(path.read_bytes() == data for path, data in before.items())
    assert same(read(tmp_path), done)


def test_a_crash_in_the_middle_of_a_chunk_costs_that_cycle(tmp_path: Path) -> None:
    done = run(Recorder(Ring(tmp_path, LIMIT), LIMIT), 5)
    (_, path), *_ = segments(tmp_path)
    os.truncate(path, path.stat().st_size - 7)
    done = done[:-1] + run(Recorder(Ring(tmp_path, LIMIT), LIMIT), 2)
    found = read(tmp_path)
    assert [type(item) for item in found] == [RecordedCycle] * 4 + [Damage] + [RecordedCycle] * 2
    assert same([item for item in found if isinstance(item, RecordedCycle)], done)


def test_other_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cycles-1.rec.bak").write_bytes(b"x" * LIMIT)
    ring = Ring(tmp_path, LIMIT)
    for _ in range(100):
        ring.offer(os.urandom(9000), True)
    assert (tmp_path / "cycles-1.rec.bak").stat().st_size == LIMIT


@pytest.mark.parametrize(
    "code, problem",
    [(errno.ENOSPC, "full"), (errno.EROFS, "read-only"), (errno.EACCES, "no-access"), (errno.EIO, "io")],
)
def test_what_the_disk_refuses_has_a_name_and_the_next_segment_heals_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, problem: str
) -> None:
    ring = Ring(tmp_path, LIMIT)
    assert ring.offer(b"x", True)

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(ring_module.os, "write", refuse)
        assert not ring.offer(b"y", False)
    assert ring.problem == problem
    assert not ring.offer(b"y", False)  # what continues a chunk that is not there is worth nothing
    assert ring.problem == problem
    assert ring.offer(b"z", True)
    assert ring.problem == ""


def test_a_full_disk_leaves_a_torn_chunk_that_readers_skip(tmp_path: Path) -> None:
    """A real short write: the process may not write beyond so many bytes of a file."""
    recorder, world = Recorder(Ring(tmp_path, LIMIT), LIMIT), World()
    done = run(recorder, 1, world)
    (_, path), *_ = segments(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        run(recorder, 1, world)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert recorder.problem == "full"
    world.now += RETRY
    done += run(recorder, 2, world)
    found = read(tmp_path)
    assert [type(item) for item in found] == [RecordedCycle, Damage, RecordedCycle, RecordedCycle]
    assert same([item for item in found if isinstance(item, RecordedCycle)], done)


def test_no_state_directory_is_a_problem_and_no_failure(tmp_path: Path) -> None:
    recorder = Recorder(Ring(tmp_path / "missing" / "recording", LIMIT), LIMIT)
    assert len(run(recorder, 3)) == 3
    assert recorder.problem == "missing"


# --- the thread ------------------------------------------------------------------------------------------------------


class HungRing(Ring):
    """A disk that answers only when it is let."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, LIMIT)
        self.hung = threading.Event()
        self.free = threading.Event()
        self.synced = threading.Event()

    def offer(self, data: bytes, first: bool) -> bool:
        self.hung.set()
        assert self.free.wait(20)
        return super().offer(data, first)

    def sync(self) -> None:
        super().sync()
        self.synced.set()


def test_s4_a_disk_that_hangs_costs_the_recording_and_no_cycle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "_PENDING", 5000)
    ring = HungRing(tmp_path)
    recorder, world = Recorder(RingThread(ring), LIMIT), World()
    done = run(recorder, 1, world)
    assert ring.hung.wait(10)
    assert len(run(recorder, 200, world)) == 200  # none of them waited
    assert recorder.problem == OVERDUE
    ring.free.set()
    recorder.close(10)
    found = read(tmp_path)
    assert same(found[:1], done)
    assert all(isinstance(item, RecordedCycle) for item in found)
    assert 1 < len(found) < 200


def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    recorder = Recorder(RingThread(Ring(tmp_path, LIMIT)), LIMIT)
    done = run(recorder, 30)
    recorder.close(10)
    assert same(read(tmp_path), done)


def test_the_last_moments_are_made_to_last_although_nothing_follows(tmp_path: Path) -> None:
    ring = HungRing(tmp_path)
    ring.free.set()
    thread = RingThread(ring, sync=0.01)
    thread.offer(b"x", True)
    assert ring.synced.wait(10)
    thread.close(10)


# --- configuration, secrets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, kib", [("", 2048), ("size-kib=0", 0), ("size-kib=256", 256), ("size-kib=", 2048)])
def test_the_size_is_configured(tmp_path: Path, text: str, kib: int) -> None:
    path = tmp_path / "agent.conf"
    path.write_text(f"[recorder]\n{text}\n")
    conf = load_agent_conf(path)
    assert conf.recorder_kib == kib
    assert (recorder_of(HostPaths(tmp_path), conf) is None) == (kib == 0)


@pytest.mark.parametrize("text", ["255", "-1", "many", "262145", "1.5"])
def test_a_size_that_makes_no_sense_is_refused_by_its_key(tmp_path: Path, text: str) -> None:
    path = tmp_path / "agent.conf"
    path.write_text(f"[recorder]\nsize-kib={text}\n")
    with pytest.raises(ConfigError, match=r"\[recorder\] size-kib"):
        load_agent_conf(path)


SECRET = "correct-horse-battery"


def test_no_password_of_the_definition_or_of_a_file_is_recorded(tmp_path: Path) -> None:
    """The real collector, with a secret in every place that it or its neighbours read."""
    definition = Effective(f"<graphics passwd='{SECRET}'/>", 2048, 900, "", "")
    ha_conf = tmp_path / "ha.conf"
    ha_conf.write_text(f"local_maintenance=False\npassword={SECRET}\n")
    record = Record(2, 4242, 3400, None, "host2", extra=(("state", "EngineDown"),))
    facts = BrokerSnapshot(slots_age=1.0, slots={0: slot.encode_global(False), 2: slot.encode(record, 0.0)})
    workers = Workers(lambda: definition, lambda: None, lambda: "", lambda: "cpu-1")
    identity = Identity(1, "h1", "boot", LeaseId("sd", "vol", "/p"), AgentConf(libvirt_uri=f"x://{SECRET}@h"), "1")
    clock = ManualClock()
    collector = Collector(lambda: facts, identity, ha_conf, workers, clock, PublishClock())
    sink = Memory()
    parts = Parts(World())
    cycle = Cycle(collector, parts, parts, parts, parts.save, T, Carried(), recorder=Recorder(sink, LIMIT))  # type: ignore[arg-type]
    for _ in range(3):
        clock.now += 10
        cycle.run_one_cycle()
    found = sink.cycles()
    assert len(found) == 3
    for item in found:
        assert isinstance(item, RecordedCycle)
        assert dict(item.raw) == {2: facts.slots[2]}
        assert SECRET not in repr(item)


# --- reading ---------------------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(RecordingError) as caught:
        read(path)
    return str(caught.value)


def test_what_cannot_be_read_is_one_line_with_the_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "missing", tmp_path / "pipe", tmp_path / "empty"):
        said = refused(path)
        assert str(path) in said and "expected" in said and "\n" not in said


def test_one_segment_of_another_version_does_not_hide_the_others(tmp_path: Path) -> None:
    done = run(Recorder(Ring(tmp_path, LIMIT), LIMIT), 2)
    (tmp_path / segment_name(2)).write_bytes(b"he-cycles 9\nwhatever")
    done += run(Recorder(Ring(tmp_path, LIMIT), LIMIT), 2)
    found = read(tmp_path)
    assert [isinstance(item, Damage) for item in found] == [False, False, True, False, False]
    assert same([item for item in found if isinstance(item, RecordedCycle)], done)


def test_reading_changes_nothing(tmp_path: Path) -> None:
    run(Recorder(Ring(tmp_path, LIMIT), LIMIT), 3)

    def state() -> Mapping[str, Tuple[int, int, bytes]]:
        return {p.name: (p.stat().st_mtime_ns, p.stat().st_size, p.read_bytes()) for p in tmp_path.iterdir()}

    before = state()
    assert len(read(tmp_path)) == 3
    assert state() == before
