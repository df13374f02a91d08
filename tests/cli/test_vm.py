import base64
import os
import subprocess
import threading
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Optional, Tuple

import pytest

from ovirt_he_ha.broker.protocol import FaultCode
from ovirt_he_ha.broker.rpc import Fault
from ovirt_he_ha.cli import vm, waiting
from ovirt_he_ha.cli.waiting import Progress
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    Action,
    ActionKind,
    ActionReport,
    EngineFacts,
    Health,
    HostLease,
    LeaseId,
    LeaseOwner,
    Outcome,
    Reading,
    Record,
)
from ovirt_he_ha.hypervisor.connection import Overdue, Unreachable
from tests.cli.world import DOWN, UP, VMID, World, record, run
from tests.own_time import OwnTime

XML = """\
<domain type='qemu'>
  <name>HostedEngine</name>
  <uuid>{vmid}</uuid>
  <memory unit='MiB'>256</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <on_lockfailure>poweroff</on_lockfailure>
  <devices>
    <lease><lockspace>{lockspace}</lockspace><key>{key}</key><target path='{path}' offset='0'/></lease>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{format}' cache='none'/>
      <source file='{disk}'><seclabel model='dac' relabel='no'/></source>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""


class Libvirt:
    """One that answers, or raises ``fault``."""

    fault: ClassVar[Optional[Exception]] = None

    def __init__(self, *_args: object) -> None:
        self.seconds: List[float] = []

    def call(self, _what: str, _function: object, seconds: float) -> int:
        self.seconds.append(seconds)
        if self.fault is not None:
            raise self.fault
        return 9_000_000


class Engine:
    """libvirt's side: remembers what it was asked, and answers with ``outcome``."""

    outcome = Outcome.OK
    detail = ""
    asked: ClassVar[List[Tuple[Any, ...]]] = []
    aborted = 0
    never = False

    def __init__(self, *_args: object, **_more: object) -> None:
        pass

    def _report(self, kind: ActionKind, *what: Any) -> ActionReport:
        type(self).asked.append((kind, *what))
        return ActionReport(Action(kind), 0.0, self.outcome, 1.0, self.detail)

    def start(self, xml: str, lease: LeaseId, deadline: float) -> ActionReport:
        return self._report(ActionKind.START, xml, lease)

    def shutdown(self, deadline: float) -> ActionReport:
        return self._report(ActionKind.STOP)

    def destroy(self, deadline: float) -> ActionReport:
        return self._report(ActionKind.POWER_OFF)

    def migrate(self, action: Action, deadline: float) -> ActionReport:
        if self.never:
            raise RuntimeError("libvirt's call failed")
        return self._report(ActionKind.MIGRATE, action, deadline)

    def abort_migration(self) -> None:
        type(self).aborted += 1


@pytest.fixture
def engine(host: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    class Own(Engine):
        asked: ClassVar[List[Tuple[Any, ...]]] = []

    monkeypatch.setattr(vm, "LibvirtEngineVm", Own)
    monkeypatch.setattr(vm, "Connection", Libvirt)
    define(host)
    host.publish(record(1), record(2), record(3))
    yield Own


def define(host: World, **changes: str) -> None:
    host.paths.vm_conf.write_text(vm_conf(host, **changes))


def vm_conf(host: World, **changes: str) -> str:
    lease = lease_of(host)
    values: Dict[str, str] = {
        "vmid": VMID,
        "lockspace": lease.lockspace,
        "key": lease.key,
        "path": lease.path,
        "format": "raw",
        "disk": lease.path[: -len(".lease")],
        **changes,
    }
    xml = base64.b64encode(XML.format(**values).encode()).decode()
    return f"xmlBase64={xml}\nvmId={VMID}\nmemSize=256\n"


def lease_of(host: World) -> LeaseId:
    ids = [f"00000000-0000-4000-8000-{number:012d}" for number in (1, 2, 3)]
    image, volume, domain = ids
    return LeaseId(domain, volume, f"{host.storage}/{domain}/images/{image}/{volume}.lease", 0)


# --- start --------------------------------------------------------------------------------------------------------


def test_start(world: World, engine: type) -> None:
    ran = run("--vm-start")
    assert ran.status == 0 and "WaitForLaunch" in ran.out
    ((kind, _xml, lease),) = engine.asked
    assert (kind, lease) == (ActionKind.START, lease_of(world))


def test_start_from_another_definition(world: World, engine: type, tmp_path: Path) -> None:
    other = tmp_path / "vm.conf"
    other.write_text(vm_conf(world))
    world.paths.vm_conf.unlink()
    assert run("--vm-start").status == 1
    assert run("--vm-start", f"--vm-conf={other}").status == 0


@pytest.mark.parametrize(
    "changes",
    [{"key": "another"}, {"lockspace": "another"}, {"path": "/elsewhere.lease"}, {"format": "qcow2"}, {"vmid": "x"}],
)
def test_an_unsafe_definition_is_refused(world: World, engine: type, changes: Dict[str, str]) -> None:
    define(world, **changes)
    ran = run("--vm-start")
    assert ran.status == 1 and str(world.paths.vm_conf) in ran.err and engine.asked == []


@pytest.mark.parametrize("number", [0, 1, 2])
def test_s1_a_volume_of_the_hosts_own_is_no_second_disk(world: World, engine: type, number: int) -> None:
    conf = load_hosted_engine_conf(world.paths.hosted_engine_conf)
    first = lease_of(world).path[: -len(".lease")]
    text = vm_conf(world)
    encoded, _, rest = text.partition("\n")
    xml = base64.b64decode(encoded.partition("=")[2]).decode()
    disk = xml[xml.index("<disk") : xml.index("</disk>") + len("</disk>")]
    own = disk.replace(first, f"{Path(first).parent}/{conf.own_volumes[number]}")
    world.paths.vm_conf.write_text(
        f"xmlBase64={base64.b64encode(xml.replace(disk, disk + own).encode()).decode()}\n{rest}"
    )
    ran = run("--vm-start")
    assert ran.status == 1 and "disk-location" in ran.err and engine.asked == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"vmId=1\nmemSize=256\n", b"xmlBase64=!!!\n"])
def test_an_unreadable_definition_is_refused(world: World, engine: type, content: bytes) -> None:
    world.paths.vm_conf.write_bytes(content)
    ran = run("--vm-start")
    assert ran.status == 1 and engine.asked == [] and ran.err.count("\n") == 1
    assert run("--vm-start", "--vm-conf=/does/not/exist").status == 1


def test_a_vm_that_runs_here_is_not_started_again(world: World, engine: type) -> None:
    world.engine(UP)
    ran = run("--vm-start")
    assert ran.status == 1 and ran.out.startswith("VM exists") and engine.asked == []


def test_start_is_refused_with_the_owners_name(world: World, engine: type) -> None:
    world.leases(owner=Reading.of(LeaseOwner(2, 7, 100)))
    ran = run("--vm-start")
    assert ran.status == 1 and engine.asked == []
    assert "2 (host2)" in ran.err and "lease" in ran.err


def test_start_without_a_broker_is_refused(host: World, engine: type) -> None:
    assert run("--vm-start").status == 1
    assert engine.asked == []


def test_a_lost_race_names_the_winner(world: World, engine: type) -> None:
    engine.outcome = Outcome.LOST_RACE
    original = engine.start

    def lose(self: Engine, *args: Any) -> ActionReport:
        world.leases(owner=Reading.of(LeaseOwner(3, 7, 100)))
        return ActionReport(original(self, *args).action, 0.0, Outcome.LOST_RACE, 1.0)

    engine.start = lose
    ran = run("--vm-start")
    assert ran.status == 1 and "3 (host3)" in ran.err


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REFUSED, Outcome.OVERDUE])
def test_a_failed_start_says_why(world: World, engine: type, outcome: Outcome) -> None:
    engine.outcome, engine.detail = outcome, "no memory"
    ran = run("--vm-start")
    assert ran.status == 1 and "no memory" in ran.err and ran.out == ""


def test_start_waits_for_the_engine(world: World, engine: type) -> None:
    states = iter([replace(UP, health=Health.BAD, reason="no answer"), UP])
    world.on_wait = lambda: world.engine(next(states))
    ran = run("--vm-start", "--wait")
    assert ran.status == 0 and ran.out.splitlines()[-1] == "The engine is up"
    assert "no answer" in ran.out and "\x1b" not in ran.out


def test_a_vm_that_ends_again_is_not_waited_for(world: World, engine: type) -> None:
    states = iter([replace(UP, health=Health.BAD, reason="no answer"), DOWN])
    world.on_wait = lambda: world.engine(next(states))
    ran = run("--vm-start", "--wait")
    assert ran.status == 1 and "ended" in ran.err


def test_a_broker_that_is_away_is_waited_for(world: World, engine: type) -> None:
    def fail() -> None:
        world.engine(UP)
        world.refuse["snapshot"] = Fault(FaultCode.STOPPING, "the broker is stopping")
        threading.Timer(0.2, world.refuse.clear).start()

    world.on_wait = fail
    assert run("--vm-start", "--wait=20").status == 0


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("screen", "end"), [(Terminal, "\r\x1b[K"), (StringIO, "why\n")])
def test_a_call_that_takes_long_is_told(monkeypatch: pytest.MonkeyPatch, screen: type, end: str) -> None:
    monkeypatch.setattr(waiting, "NOTICE", 0.01)
    monkeypatch.setattr(waiting, "TICK", 0.01)
    out = screen()
    told = threading.Event()
    original = out.write
    out.write = lambda text: (original(text), told.set())[0]
    with waiting.notice("why", out):
        assert told.wait(10)
    assert "why" in out.getvalue() and out.getvalue().endswith(end)
    quiet = screen()
    monkeypatch.setattr(waiting, "NOTICE", 10.0)
    with waiting.notice("why", quiet):
        pass
    assert quiet.getvalue() == ""


def test_progress_on_a_terminal_is_one_line_that_is_redrawn() -> None:
    screen = Terminal()
    progress = Progress(60.0, screen)
    progress.show("one")
    progress.show("two")
    progress.close()
    assert screen.getvalue().count("\n") == 1 and screen.getvalue().count("\r") == 2
    plain = StringIO()
    progress = Progress(60.0, plain)
    for text in ("one", "one", "two"):
        progress.show(text)
    progress.close()
    assert plain.getvalue() == "[  0 s] one\n[  0 s] two\n"


# --- stop ---------------------------------------------------------------------------------------------------------


def test_shutdown_returns_when_the_guest_was_asked(world: World, engine: type) -> None:
    world.engine(UP, pid=77)
    ran = run("--vm-shutdown")
    assert ran.status == 0 and engine.asked == [(ActionKind.STOP,)]
    assert "global maintenance is off" in ran.out
    world.slots[0] = slot.encode_global(True)
    assert "global maintenance" not in run("--vm-shutdown").out


@pytest.mark.parametrize("after", [EngineFacts(DOWN), EngineFacts(UP, pid=78)])
def test_shutdown_waits_until_the_copy_has_ended(world: World, engine: type, after: EngineFacts) -> None:
    """Also when the agent has started the next copy before anybody looked."""
    world.engine(UP, pid=77)
    world.on_wait = lambda: world.engine(after.status, pid=after.pid)
    ran = run("--vm-shutdown", "--wait")
    assert ran.status == 0 and engine.asked == [(ActionKind.STOP,)]
    assert "global maintenance is off" in ran.out


def test_a_guest_that_ignores_the_button(world: World, engine: type) -> None:
    world.engine(UP, pid=77)
    took = OwnTime()
    ran = run("--vm-shutdown", "--wait=1")
    assert ran.status == 1 and "--vm-poweroff" in ran.err and took.wall > 0.9 and took.seconds < 3


def test_an_unknown_vm_has_not_ended(world: World, engine: type) -> None:
    states = iter([None, EngineFacts(DOWN)])

    def change() -> None:
        facts = next(states)
        reading = Reading.of(facts) if facts else Reading.missing("no-libvirt")
        world.facts = replace(world.facts, monitors=replace(world.facts.monitors, engine=reading))

    world.engine(UP, pid=77)
    world.on_wait = change
    assert run("--vm-shutdown", "--wait").status == 0
    assert next(states, "all seen") == "all seen"


@pytest.mark.parametrize("verb", ["--vm-shutdown", "--vm-migrate"])
def test_what_is_not_here_cannot_be_stopped_or_moved(world: World, engine: type, verb: str) -> None:
    ran = run(verb)
    assert ran.status == 1 and ran.err.startswith("Virtual machine does not exist") and engine.asked == []
    monitors = replace(world.facts.monitors, engine=Reading.missing("no-libvirt"))
    world.facts = replace(world.facts, monitors=monitors)
    assert run(verb).status == 1 and engine.asked == []


def test_a_guest_that_cannot_be_asked(world: World, engine: type) -> None:
    world.engine(UP)
    engine.outcome = Outcome.OVERDUE
    assert run("--vm-shutdown").status == 1


def test_poweroff_needs_no_broker(host: World, engine: type) -> None:
    assert run("--vm-poweroff").status == 0
    assert engine.asked == [(ActionKind.POWER_OFF,)]
    engine.outcome = Outcome.FAILED
    assert run("--vm-poweroff").status == 1
    assert run("--vm-poweroff", "--wait=5").status == 1


# --- migrate ------------------------------------------------------------------------------------------------------


CPU = ("cpu", "abc")


def able(host_id: int, score: int = 3400, keys: Tuple[Tuple[str, str], ...] = (), **changes: Any) -> Record:
    """A host that takes the VM; ``keys`` replace what it publishes."""
    published = {"state": "EngineDown", "mig": "1", "mig.uri": f"tcp://10.0.1.{host_id}", "cpu": "abc", "mem": "4000"}
    published.update(keys)
    return record(host_id, score=score, extra=tuple(published.items()), **changes)


@pytest.fixture
def moving(world: World, engine: type) -> World:
    """The VM runs here (host 1); 2 and 3 can take it."""
    world.engine(UP)
    world.publish(record(1, engine=UP, extra=(("state", "EngineUp"), CPU)), able(2, 3000), able(3, 3200))
    return world


def target(engine: type) -> Tuple[int, str]:
    ((kind, action, deadline),) = engine.asked
    assert kind is ActionKind.MIGRATE and deadline == action.deadline == 128.0
    return action.target_id, action.target_address


def test_migrate_to_the_best_host(moving: World, engine: type) -> None:
    ran = run("--vm-migrate", "--wait")
    assert ran.status == 0 and "3 (host3)" in ran.out
    assert target(engine) == (3, "tcp://10.0.1.3")


def test_migrate_to_a_named_host(moving: World, engine: type) -> None:
    assert run("--host=2", "--vm-migrate", "--wait").status == 0
    assert target(engine) == (2, "tcp://10.0.1.2")


@pytest.mark.parametrize("host_id", [1, 7])
def test_this_host_and_an_unknown_one_are_no_destination(moving: World, engine: type, host_id: int) -> None:
    ran = run("--vm-migrate", f"--host={host_id}")
    assert ran.status == 1 and str(host_id) in ran.err and engine.asked == []


@pytest.mark.parametrize(
    "peer",
    [
        able(4, stopped=True),
        able(4, maintenance=True),
        able(4, score=0),
        able(4, keys=(("mig", "0"),)),
        able(4, keys=(("mig.uri", ""),)),
        able(4, keys=(("lease", "another"),)),
        able(4, keys=(("cpu", "other"),)),
        able(4, keys=(("mem", "255"),)),
    ],
)
def test_a_host_that_cannot_take_it(moving: World, engine: type, peer: Record) -> None:
    flags = {1: HostLease.LIVE, 2: HostLease.LIVE, 3: HostLease.LIVE, 4: HostLease.LIVE}
    moving.leases(hosts=Reading.of(flags))
    moving.alive = [1, 2, 3, 4]
    moving.publish(peer)
    ran = run("--vm-migrate", "--host=4")
    assert ran.status == 1 and "4 (host4)" in ran.err and engine.asked == []
    moving.publish(able(4))
    assert run("--vm-migrate", "--host=4", "--wait").status == 0


def test_a_host_out_of_the_lockspace_cannot_take_it(moving: World, engine: type) -> None:
    moving.leases(hosts=Reading.of({2: HostLease.FAIL, 3: HostLease.LIVE}))
    assert run("--vm-migrate", "--host=2").status == 1
    moving.alive = [1, 2]
    assert run("--vm-migrate", "--host=3").status == 1
    assert engine.asked == []


def test_an_own_cpu_model_that_is_not_known_fits_nothing(moving: World, engine: type) -> None:
    moving.publish(record(1, engine=UP))
    assert run("--vm-migrate", "--wait").status == 1


def test_nobody_can_take_it(moving: World, engine: type) -> None:
    moving.alive = [1]
    assert run("--vm-migrate", "--wait").status == 1
    assert engine.asked == []


def test_a_failed_migration_says_where_the_vm_is(moving: World, engine: type) -> None:
    engine.outcome, engine.detail = Outcome.FAILED, "no route"
    ran = run("--vm-migrate", "--wait")
    assert ran.status == 1 and "goes on here" in ran.err and "no route" in ran.err


def test_a_call_that_raises_is_a_failure(moving: World, engine: type) -> None:
    engine.never = True
    ran = run("--vm-migrate", "--wait")
    assert ran.status == 1 and ran.err.count("\n") == 1


def test_an_interrupted_migration_is_aborted(host: World, engine: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: threading.Thread, timeout: Optional[float] = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        host = vm.Host()
        vm._interruptible(host, Action(ActionKind.MIGRATE, deadline=1.0), "moving")
    assert engine.aborted == 1


def test_a_wait_is_the_moves_deadline(moving: World, engine: type) -> None:
    assert run("--vm-migrate", "--wait=30").status == 0
    assert engine.asked[0][1].deadline == 30.0


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("import time; time.sleep(60)", 0),
        ("raise SystemExit(0)", 0),
        ("import sys; sys.exit('host 3 is not ready')", 1),
    ],
)
def test_without_wait_a_process_of_its_own_moves_it(
    moving: World, engine: type, monkeypatch: pytest.MonkeyPatch, program: str, status: int
) -> None:
    asked: List[List[str]] = []
    movers: List[subprocess.Popen[str]] = []
    begin = vm.in_background

    def instead(words: List[str]) -> "subprocess.Popen[str]":
        asked.append(words)
        movers.append(begin(["-c", program]))
        return movers[-1]

    monkeypatch.setattr(vm, "in_background", instead)
    monkeypatch.setattr(vm, "EARLY_SECONDS", 0.5 if status == 0 and "sleep" in program else 10.0)
    try:
        ran = run("--vm-migrate")
    finally:
        movers[0].kill()
        movers[0].communicate()
    assert ran.status == status and engine.asked == []
    assert asked == [["-m", "ovirt_he_ha.cli.main", "--vm-migrate", "--host=3", "--wait"]]
    assert ("host 3 is not ready" in ran.err) == bool(status)


def test_the_process_of_its_own_takes_no_modules_from_where_the_operator_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """root may stand in a directory that anybody writes to."""
    (tmp_path / "ovirt_he_ha").mkdir()
    (tmp_path / "ovirt_he_ha" / "__init__.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(vm.__file__).resolve().parents[2]))
    mover = vm.in_background(["-m", "ovirt_he_ha.cli.main", "--version"])
    mover.communicate(timeout=20)
    assert mover.returncode == 0 and not (tmp_path / "taken").exists()


@pytest.mark.parametrize("kind", ["pipe", "endless", "directory", "too-large", "no-text"])
def test_what_is_no_definition_is_not_waited_for(world: World, engine: type, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "vm.conf"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path = Path("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"a" * (1 << 21) if kind == "too-large" else b"\xff\xfe")
    begin = time.monotonic()
    ran = run("--vm-start", f"--vm-conf={path}")
    assert ran.status == 1 and ran.err.count("\n") == 1 and str(path) in ran.err
    assert time.monotonic() - begin < 3.0 and engine.asked == []


@pytest.mark.parametrize("words", ["--vm-start", "--vm-shutdown", "--vm-migrate", "--vm-migrate --wait"])
@pytest.mark.parametrize("fault", [Overdue("tell its version", 2.0), Unreachable("qemu:///system", "no socket")])
def test_a_libvirt_that_does_not_answer_is_not_asked_for_more(
    moving: World, engine: type, monkeypatch: pytest.MonkeyPatch, words: str, fault: Exception
) -> None:
    """What follows waits for the guest's agent, or for a lease."""
    monkeypatch.setattr(Libvirt, "fault", fault)
    monkeypatch.setattr(vm, "in_background", lambda _words: pytest.fail("a move was begun"))
    if words == "--vm-start":
        moving.engine(DOWN)
        moving.leases(owner=Reading.of(LeaseOwner(0)))
    ran = run(*words.split())
    assert ran.status == 1 and str(fault) in ran.err and engine.asked == []
