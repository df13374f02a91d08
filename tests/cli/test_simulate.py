"""What an administrator asks of the living cluster. The simulator itself: tests/sim/test_what_if.py."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Dict, List, Tuple

import pytest

from ovirt_he_ha import __version__
from ovirt_he_ha.broker import protocol
from ovirt_he_ha.cli import simulate, slot_watch
from ovirt_he_ha.cli.boot_time import boots
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.ledger import Entry, encode
from ovirt_he_ha.core.model import HostLease, LeaseOwner, Reading, ScoreConfig
from ovirt_he_ha.lease import daemon_status
from ovirt_he_ha.lease.daemon_status import NoStatus
from tests.cli.world import UP, World, record, run
from tests.own_time import OwnTime

ROOT = Path(__file__).resolve().parents[2]
OURS = (("version", __version__), ("gen", "4"), ("mig", "1"), ("cpu", "x"), ("mem", "9000"))
FAST = ("--runs=1", "--boot-time=5")


def ours(host_id: int, state: str = "EngineDown", **changes: Any) -> Any:
    return record(host_id, extra=(("state", state), *OURS), **changes)


def publish(world: World) -> None:
    """The VM is on host 1."""
    world.publish(ours(1, "EngineUp", engine=UP), ours(2), ours(3))
    world.leases(owner=Reading.of(LeaseOwner(1, 4)))


def snapshot(*words: str) -> Dict[str, Any]:
    ran = run("--simulate", "--snapshot", *words)
    assert ran.status == 0 and ran.err == ""
    return ran.json


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_the_loss_of_a_host_within_the_announced_bound(world: World) -> None:
    publish(world)
    ran = run("--fail-host=1", "--simulate", "--json", "--runs", "3", "--boot-time=5")
    assert ran.status == 0 and ran.err == "" and ran.out.count("\n") == 1
    found = ran.json
    assert found["announced"]["bound"] == "host-loss" and found["announced"]["kept"]
    assert 100 < found["outage"]["min"] <= found["outage"]["typical"] <= found["outage"]["max"] <= 162 + 6
    assert list(found["outage"]["parts"]) == ["detection", "lease", "start", "boot"]
    assert found["engine_on"] == 1 and set(found["engine_afterwards"]) <= {2, 3} and found["certainty"] == "high"
    orders = [each for each in found["timeline"] if each["what"] == "order"]
    assert orders and orders[0]["host"] in (2, 3)
    assert {reason["code"] for each in found["timeline"] for reason in each["reasons"]} >= {"lease-held", "start"}


def test_for_people(world: World) -> None:
    publish(world)
    ran = run("--simulate", "--crash-vm", *FAST)
    assert ran.status == 0 and ran.err == ""
    for part in (
        "host 1 (host1)",
        "has the engine VM",
        "predicted outage",
        "vm-crash",
        "orders: start the VM",
        "How sure",
    ):
        assert part in ran.out


def test_the_engine_that_does_not_come_back(world: World) -> None:
    publish(world)
    every = ("--fail-host=1", "--fail-host=2", "--fail-host=3")
    ran = run("--simulate", *every, *FAST, "--json")
    assert ran.status == 3 and ran.json["outage"]["not_back"] == 1


def test_the_engine_is_down(world: World) -> None:
    world.publish(ours(1), ours(2), ours(3))
    ran = run("--simulate", *FAST, "--json")
    assert ran.status == 0 and ran.json["engine_on"] is None and 0 < ran.json["outage"]["typical"] < 60
    ran = run("--simulate", "--crash-vm")
    assert ran.status == 1 and ran.out == "" and ran.err.count("\n") == 1


# --- the snapshot -----------------------------------------------------------------------------------------------------


def test_what_it_begins_with(world: World) -> None:
    world.publish(
        ours(1, "EngineUp", engine=UP),
        record(2, score=1800, extra=(("state", "EngineDown"), *OURS, ("score.network", "-1600 0"))),
        record(3, extra=()),
        ours(5, maintenance=True, score=0),
        record(6, score=0, extra=(*OURS, ("score.zero", "handed-over"), ("why.next.0", "hand-over-end;in=42"))),
    )
    world.slots[4] = b"\xff" * 4096
    world.alive = [1, 2, 3]
    hosts = {1: HostLease.LIVE, 2: HostLease.LIVE, 4: HostLease.DEAD, 8: HostLease.LIVE, 9: HostLease.DEAD}
    world.leases(
        io_timeout=5, watchdog=30, owner=Reading.of(LeaseOwner(1, 4)), hosts=Reading.of(MappingProxyType(hosts))
    )
    found = snapshot()
    assert (found["io_timeout"], found["watchdog"], found["memory_mib"], found["own_id"]) == (5, 30, 256, 1)
    assert found["owner"] == {"host_id": 1, "generation": 4} and found["source"] == "broker"
    assert found["global_maintenance"] is False and found["score"]["base_score"] == ScoreConfig().base_score
    by_id = {each["id"]: each for each in found["hosts"]}
    assert list(by_id) == [1, 2, 3, 4, 5, 6, 8]
    one = by_id[1]
    assert (one["vm"], one["health"], one["live"], one["lease"], one["ours"]) == ("up", "good", True, "live", True)
    assert (one["mem_free"], one["generation"], one["migration"], one["version"]) == (9000, 4, True, __version__)
    assert by_id[2]["penalties"] == {"network": "0"} and by_id[3]["ours"] is False and by_id[3]["lease"] is None
    assert (by_id[4]["slot"], by_id[4]["lease"], by_id[5]["live"]) == ("invalid", "dead", False)
    assert by_id[5]["maintenance"] and by_id[6]["zero"] == "handed-over" and by_id[6]["ahead"] == {"hand-over-end": 42}
    assert by_id[8] == {"id": 8, "lease": "live", "slot": "empty", "live": False}


def test_the_snapshot_is_what_he_sim_takes(world: World, tmp_path: Path) -> None:
    publish(world)
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps(snapshot()))
    program = [sys.executable, "-m", "ovirt_he_ha.sim.main", "what-if", str(file), "--fail-host=2", *FAST, "--json"]
    ran = subprocess.run(program, capture_output=True, cwd=ROOT, check=True)
    assert json.loads(ran.stdout)["outage"]["max"] == 0


def test_configured_weights_are_in_it(world: World) -> None:
    publish(world)
    world.paths.agent_conf.parent.mkdir(parents=True, exist_ok=True)
    world.paths.agent_conf.write_text("[score]\nbase-score=3000\n")
    assert snapshot()["score"]["base_score"] == 3000


def test_an_agent_that_does_not_run_tells_nobody_who_is_alive(world: World) -> None:
    publish(world)
    world.alive = []
    assert {each["live"] for each in snapshot()["hosts"]} == {None}
    ran = run("--simulate", "--fail-host=1", *FAST, "--json")
    assert ran.status == 0 and "liveness-unknown" in [each["code"] for each in ran.json["assumptions"]]


def test_stale_and_invalid_hosts_are_said(world: World) -> None:
    publish(world)
    world.slots[3] = b"\xff" * 4096
    world.alive = [1]
    found = {1: HostLease.LIVE, 2: HostLease.DEAD, 3: HostLease.LIVE}
    world.leases(hosts=Reading.of(MappingProxyType(found)))
    answer = run("--simulate", "--fail-host=1", *FAST, "--json")
    assert answer.status == 3  # nobody is left
    assert {"stale", "invalid-slot"} <= {each["code"] for each in answer.json["assumptions"]}
    assert [each["mode"] for each in answer.json["hosts"]] == ["works", "off", "mute"]


# --- past the broker --------------------------------------------------------------------------------------------------


@pytest.fixture
def volume(host: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The whiteboard as a file; sanlock is not there."""

    def no_sanlock() -> None:
        raise NoStatus("refused", "/run/sanlock", "nobody listens")

    monkeypatch.setattr(slot_watch.daemon_status, "ask", no_sanlock)
    monkeypatch.setattr(slot_watch, "WATCH", 0.5)
    monkeypatch.setattr(slot_watch, "PAUSE", 0.05)
    return host.make_volume()


def write(path: Path, *records: Any) -> None:
    with path.open("r+b") as stream:
        for each in records:
            stream.seek(each.host_id * 4096)
            stream.write(slot.encode(each, 1.7e9))


def test_the_volume_is_read_where_no_broker_answers(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(volume, ours(1, "EngineUp", engine=UP), ours(2), ours(3))

    now = itertools.count(9000)

    def pause(seconds: float) -> None:  # hosts 1 and 2 publish meanwhile
        write(volume, ours(1, "EngineUp", engine=UP, timestamp=next(now)), ours(2, timestamp=next(now)))

    monkeypatch.setattr(slot_watch.time, "sleep", pause)
    found = snapshot()
    assert found["source"] == "volume" and found["problems"]
    assert {each["id"]: each["live"] for each in found["hosts"]} == {1: True, 2: True, 3: False}
    ran = run("--simulate", "--fail-host=1", *FAST, "--json")
    assert ran.status == 0 and ran.json["certainty"] == "low"
    assert {"no-broker", "no-host-list"} <= {each["code"] for each in ran.json["assumptions"]}


def test_no_third_reader_where_two_hang(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_watch, "stuck_readers", lambda path: 2)
    ran = run("--simulate", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "storage"


def test_storage_that_hangs_is_told_of_at_once(volume: Path, host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host.hang_storage(monkeypatch)
    began = OwnTime()
    ran = run("--simulate", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "storage"
    assert began.seconds < 3.0 - 0.4  # the interpreter's start and the imports


def test_a_broker_that_answers_nobody_is_not_waited_for(
    volume: Path, host: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.hang_broker()
    host.hang_storage(monkeypatch)
    began = OwnTime()
    ran = run("--simulate", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "storage" and "The broker does not answer" in ran.err
    assert began.seconds < 6.0  # 2 for the broker, 2 for the volume


def test_neither_broker_nor_volume(host: World) -> None:
    ran = run("--simulate", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "storage"


def test_a_broker_that_has_not_read_the_volume_yet(volume: Path, host: World) -> None:
    write(volume, ours(1))
    host.facts = type(host.facts)(host_id=1)
    host.start_broker()
    assert snapshot()["source"] == "volume"


def test_sanlock_is_asked_for_its_hosts_and_not_waited_for(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Space:
        io_timeout = 7

    class Status:
        spaces: ClassVar[Dict[str, Space]] = {"00000000-0000-4000-8000-000000000003": Space()}

    class Hangs:
        def get_hosts(self, _lockspace: bytes) -> List[Dict[str, Any]]:
            time.sleep(5)
            return []

    class Answers:
        def get_hosts(self, _lockspace: bytes) -> List[Dict[str, Any]]:
            return [{"host_id": 1, "flags": 3}, {"host_id": 2, "flags": 5}]

    write(volume, ours(1), ours(2))
    monkeypatch.setattr(slot_watch.daemon_status, "ask", Status)
    monkeypatch.setattr(slot_watch, "SANLOCK_SECONDS", 0.2)
    monkeypatch.setattr(slot_watch.binding, "load", Hangs)
    assert {each["lease"] for each in snapshot()["hosts"]} == {None} and snapshot()["io_timeout"] == 7
    monkeypatch.setattr(slot_watch.binding, "load", Answers)
    monkeypatch.setattr(slot_watch.vm_lease, "owner", lambda lease: LeaseOwner(2, 6))
    found = snapshot()
    assert {each["id"]: each["lease"] for each in found["hosts"]} == {1: "live", 2: "dead"}
    assert found["owner"] == {"host_id": 2, "generation": 6}


# --- the boot time ----------------------------------------------------------------------------------------------------


def line(kind: str, at: float, boot: str = "b", **values: Any) -> Entry:
    return Entry(kind, 1, boot, at, at, values)


START = line("order", 10.0, action="start")
HERE = line("vm", 11.0, vm="here")


@pytest.mark.parametrize(
    ("entries", "seconds"),
    [
        ([START, HERE, line("state", 91.0, to="EngineUp")], [80.0]),
        ([START, line("state", 10.0, to="EngineStart"), HERE, line("state", 91.0, to="EngineUp")], [80.0]),
        ([HERE, line("state", 12.0, to="EngineUp")], []),  # it was taken over, booted
        (
            [START, HERE, line("vm", 20.0, vm="gone"), line("vm", 30.0, vm="here"), line("state", 31.0, to="EngineUp")],
            [],
        ),
        ([START, line("vm", 10.5, vm="gone"), HERE, line("state", 51.0, to="EngineUp")], [40.0]),
        ([START, HERE, line("begin", 15.0), line("state", 91.0, to="EngineUp")], []),
        ([START, HERE, line("state", 91.0, "other", to="EngineUp")], []),
        ([START, HERE, line("state", 61.0, to="EngineUp"), line("state", 65.0, to="EngineUp")], [50.0]),
    ],
)
def test_boots_of_a_ledger(entries: List[Entry], seconds: List[float]) -> None:
    assert boots(entries) == seconds


def test_the_ledger_says_how_long_the_appliance_boots(world: World) -> None:
    publish(world)
    assert snapshot()["boot_time"] is None
    world.paths.ledger.write_bytes(b"".join(encode(each) for each in (START, HERE, line("state", 91.0, to="EngineUp"))))
    assert snapshot()["boot_time"] == {"seconds": 80.0, "starts": 1}
    world.paths.ledger.unlink()
    world.paths.ledger.mkdir()
    assert snapshot()["boot_time"] is None


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--fail-host=9"], "9"),
        (["--fail-host=0"], "0"),
        (["--fail-host"], "--fail-host"),
        (["--storage-hang=-5"], "--storage-hang"),
        (["--storage-hang=60:17"], "17"),
        (["--network-loss=nobody"], "nobody"),
        (["--for=5"], "--for"),
        (["--fail-host=2", "--maintenance=2", "--at=5"], "off then"),
        (["--crash-vm", "--crash-vm"], "twice"),
        (["--explode"], "--explode"),
        (["somewhere"], "somewhere"),
        (["--boot-time=long"], "--boot-time"),
        (["--simulate=2"], "--simulate"),
    ],
)
def test_bad_input_is_one_line_or_one_object(world: World, words: List[str], names: str) -> None:
    publish(world)
    ran = run("--simulate", *words)
    assert ran.status == 1 and ran.out == "" and ran.err.count("\n") == 1 and names in ran.err
    ran = run("--simulate", "--json", *words)
    assert ran.status == 1 and ran.err == "" and names in ran.json["error"]["message"]


def test_not_with_another_verb(world: World) -> None:
    assert run("--simulate", "--vm-status").status == 1


def test_not_deployed(host: World) -> None:
    host.configure(vmid="")
    assert run("--simulate", "--json").json["error"]["code"] == "not-deployed"


def test_no_host_at_all(world: World) -> None:
    world.leases(hosts=Reading.missing("not-yet"))
    ran = run("--simulate", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == "no-hosts"


CHILDREN = {
    "dies": (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
    "fails": (sys.executable, "-c", "raise SystemExit('something')"),
    "hangs": (sys.executable, "-c", "import time; time.sleep(60)"),
    "deaf": (sys.executable, "-c", "raise SystemExit(1)"),
}


@pytest.mark.parametrize(
    ("child", "code"), [("dies", "simulator"), ("fails", "simulator"), ("hangs", "overdue"), ("deaf", "simulator")]
)
def test_a_simulator_that_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch, child: str, code: str) -> None:
    publish(world)
    monkeypatch.setattr(simulate, "_CHILD", CHILDREN[child])
    monkeypatch.setattr(simulate, "SECONDS", 0.5 if child == "hangs" else 30.0)
    ran = run("--simulate", "--json")
    assert ran.status == 1 and ran.json["error"]["code"] == code and "\n" not in ran.json["error"]["message"]


# --- it changes nothing -----------------------------------------------------------------------------------------------

# In every interpreter of the run: what it opens for writing, changes, connects to or starts is told in a file that was
# opened before.
HOOK = """
import json, os, sys
told = os.open(os.environ["TOLD"], os.O_WRONLY | os.O_APPEND)
writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
changes = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "os.utime", "os.mknod", "os.setxattr", "os.removexattr", "os.system", "os.exec", "os.fork",
           "os.posix_spawn", "os.kill", "os.killpg", "socket.connect", "socket.bind", "socket.sendto",
           "subprocess.Popen", "shutil.move", "ctypes.dlopen")
def tell(event, *args):
    os.write(told, (json.dumps([os.getpid(), event, *map(str, args)]) + chr(10)).encode())
def hook(event, args):
    # A descriptor that is made a stream is nothing opened.
    if event in changes or (event == "open" and not isinstance(args[0], int) and (args[2] or 0) & writes):
        tell(event, *args)
tell("begins")
sys.addaudithook(hook)
"""


def told_by_every_interpreter(host: World, tmp_path: Path, *words: str) -> Tuple[List[List[str]], Dict[str, Any]]:
    """What the whole run did, and its answer."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    told = tmp_path / "told"
    told.touch()
    # That an interpreter keeps compiled code is none of the command's doing; the command's child is told not to.
    environment = {**os.environ, "TOLD": str(told), "OVIRT_HE_ROOT": str(host.root), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = f"{tmp_path}:{ROOT}"
    program = [sys.executable, "-m", "ovirt_he_ha.cli.main", "--simulate", *words, *FAST, "--json"]
    before = state_of(host.root)
    ran = subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, check=False)
    assert ran.returncode in (0, 3), ran.stderr
    assert state_of(host.root) == before and host.written == [] and host.resets == 0
    said = [json.loads(each)[1:] for each in told.read_text().splitlines()]
    assert [each for each in said if each == ["begins"]] == [["begins"], ["begins"]]  # the command and the simulator
    return [each for each in said if each != ["begins"]], json.loads(ran.stdout)


def test_it_opens_nothing_for_writing_and_only_looks(host: World, tmp_path: Path) -> None:
    host.start_broker()
    publish(host)
    done, answer = told_by_every_interpreter(host, tmp_path, "--fail-host=1")
    assert answer["outage"]["max"] > 100
    assert {each[0] for each in done} == {"socket.connect", "subprocess.Popen"}
    assert {each[-1] for each in done if each[0] == "socket.connect"} == {str(host.paths.broker_socket)}
    (started,) = [each for each in done if each[0] == "subprocess.Popen"]
    assert "'what-if', '-'" in started[2]
    assert set(host.calls) == {protocol.SNAPSHOT, protocol.IS_HOST_ALIVE}


def test_nor_does_it_past_the_broker(host: World, tmp_path: Path) -> None:
    """The volume is read by a process of its own, which gets nothing (no file, a null device) as its input."""
    publish(host)
    volume = host.make_volume()
    done, answer = told_by_every_interpreter(host, tmp_path)
    assert answer["hosts"] and "no-broker" in [each["code"] for each in answer["assumptions"]]
    opened = [each[1] for each in done if each[0] == "open"]
    assert set(opened) <= {os.devnull}
    assert {each[0] for each in done} <= {"open", "socket.connect", "subprocess.Popen"}
    sockets = {each[-1] for each in done if each[0] == "socket.connect"}
    assert sockets <= {str(host.paths.broker_socket), daemon_status.socket_path()}
    started = [each[2] for each in done if each[0] == "subprocess.Popen"]
    assert len(started) == 2 and str(volume) in started[0] and "'what-if', '-'" in started[1]


def state_of(root: Path) -> Dict[str, Tuple[int, int, int]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return found
