"""Every verb on a host that is not deployed, half deployed, without its broker, with hung storage, with stale peers,
and well: which stream, which exit status, and how long it takes."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest

from ovirt_he_ha.broker.protocol import FaultCode, PublishFacts, StorageFacts
from ovirt_he_ha.broker.rpc import Fault
from ovirt_he_ha.cli import console, storage, verbs, vm, waiting
from ovirt_he_ha.cli.verbs import FLAG, VERBS, choices
from ovirt_he_ha.client import shared_config
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import EngineFacts, LeaseOwner, Reading
from ovirt_he_ha.storage.archive import build_archive
from ovirt_he_ha.storage.errors import StorageOverdue
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import MIB, DomainVolumes, VolumeSizes, create_domain
from tests.cli.test_configuration import MEMBERS, archive_of
from tests.cli.test_console import Engine as Screen
from tests.cli.test_vm import Engine, Libvirt, define
from tests.cli.world import UP, Ran, World, record, run
from tests.client.no_lock import NoLock
from tests.own_time import OwnTime
from tests.storage.sanlock_records import write_identity

LONGEST = 3.0  # wall seconds on a machine with nothing else to do
OUT, ERR, BOTH, NEITHER = "out", "err", "both", "-"
LONG_CALL = waiting.NOTICE
HUNG = StorageOverdue("overdue", "/volume", detail="5 s")


# --- the situations ------------------------------------------------------------------------------------------------


def not_deployed(world: World, _patch: pytest.MonkeyPatch) -> None:
    world.configure(vmid="")


def half_deployed(world: World, _patch: pytest.MonkeyPatch) -> None:
    world.configure(vmid="")
    defined = world.root / "etc" / "libvirt" / "qemu" / "HostedEngineLocal.xml"
    defined.parent.mkdir(parents=True)
    defined.write_text("<domain/>")


def broker_down(world: World, _patch: pytest.MonkeyPatch) -> None:
    """The volume can be read."""
    world.make_volume()


def storage_hung(world: World, patch: pytest.MonkeyPatch) -> None:
    """The broker answers from its memory; what it is asked to write is overdue."""
    world.facts = replace(
        world.facts,
        slots_age=90.0,
        storage=StorageFacts("overdue", 1.0, str(HUNG)),
        publish=PublishFacts(90.0, problem="overdue"),
    )
    world.leases(owner=Reading.missing("overdue", 90.0))
    for method in ("put_stats", "reset_lockspace"):
        world.refuse[method] = Fault(FaultCode.OVERDUE, f"slot 0: {HUNG}")
    world.hang_storage(patch)
    # Here alone: a storage that answers may need its time on a busy machine, and nobody is told of it meanwhile.
    patch.setattr(storage, "CONNECT_SECONDS", 1.0)
    patch.setattr(waiting, "NOTICE", LONG_CALL)
    world.start_broker()


def stale_peers(world: World, _patch: pytest.MonkeyPatch) -> None:
    world.alive = [1]
    world.start_broker()


def normal(world: World, _patch: pytest.MonkeyPatch) -> None:
    world.start_broker()


SITUATIONS: Tuple[Callable[[World, pytest.MonkeyPatch], None], ...] = (
    not_deployed,
    half_deployed,
    broker_down,
    storage_hung,
    stale_peers,
    normal,
)

# --- what is expected ----------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """Per situation, in their order: exit status and stream. ``here``: the VM runs on this host."""

    words: Tuple[str, ...]
    expected: str
    here: bool = False


def row(words: str, expected: str, here: bool = False) -> Row:
    return Row(tuple(words.split()), expected, here)


# fmt: off
TABLE = (
    #                                      not deployed  half    no broker  hung    stale   normal
    row("--vm-status",                         "1 out,  2 out,  0 out,  0 out,  0 out,  0 out"),
    row("--vm-status --json",                  "1 out,  2 out,  0 out,  0 out,  0 out,  0 out"),
    row("--vm-status --table",                 "1 out,  2 out,  0 out,  0 out,  0 out,  0 out"),
    row("--vm-start",                          "1 out,  1 out,  1 err,  1 err,  0 out,  0 out"),
    row("--vm-start",                          "1 out,  1 out,  1 err,  1 out,  1 out,  1 out", here=True),
    row("--vm-shutdown",                       "1 out,  1 out,  1 err,  1 err,  1 err,  1 err"),
    row("--vm-shutdown",                       "1 out,  1 out,  1 err,  0 out,  0 out,  0 out", here=True),
    row("--vm-poweroff",                       "1 out,  1 out,  0 out,  0 out,  0 out,  0 out"),
    row("--vm-migrate",                        "1 out,  1 out,  1 err,  1 err,  1 err,  1 err"),
    row("--vm-migrate",                        "1 out,  1 out,  1 err,  0 out,  1 err,  0 out", here=True),
    row("--vm-migrate --host=2 --wait=1",      "1 out,  1 out,  1 err,  0 out,  1 err,  0 out", here=True),
    row("--console",                           "1 out,  1 out,  1 err,  1 err,  1 err,  1 err"),
    row("--add-console-password --password=x", "1 out,  1 out,  0 out,  0 out,  0 out,  0 out"),
    row("--check-deployed",                    "1 out,  1 out,  0 out,  0 out,  0 out,  0 out"),
    row("--check-liveliness",                  "1 out,  1 out,  1 out,  1 out,  1 out,  1 out"),
    row("--connect-storage",                   "1 out,  1 out,  0 out,  1 err,  0 out,  0 out"),
    row("--disconnect-storage",                "1 out,  1 out,  0 out,  0 out,  0 out,  0 out"),
    row("--set-maintenance --mode=global",     "1 out,  1 out,  1 err,  1 err,  0 out,  0 out"),
    row("--set-maintenance --mode=local",      "1 out,  1 out,  0 both, 0 out,  0 out,  0 out"),
    row("--set-maintenance --mode=none",       "1 out,  1 out,  1 both, 1 both, 0 out,  0 out"),
    row("--host-shutdown --cancel",            "1 out,  1 out,  0 out,  0 out,  0 out,  0 out"),
    row("--get-shared-config gateway --type=he_local",
                                               "1 out,  1 out,  0 out,  0 out,  0 out,  0 out"),
    row("--get-shared-config console",         "1 out,  1 out,  0 out,  1 err,  0 out,  0 out"),
    row("--set-shared-config gateway 192.0.2.9 --type=he_local",
                                               "1 out,  1 out,  0 err,  0 err,  0 err,  0 err"),
    row("--set-shared-config console qxl",     "1 out,  1 out,  0 err,  1 err,  0 err,  0 err"),
    row("--set-shared-config local_maintenance 1",
                                               "1 out,  1 out,  0 -,    1 err,  0 -,    0 -"),
    row("--restore-shared-config",             "1 out,  1 out,  1 err,  1 err,  1 err,  1 err"),
    row("--clean-metadata",                    "1 out,  1 out,  1 err,  1 err,  1 err,  1 err"),
    row("--clean-metadata --host-id=3",        "1 out,  1 out,  1 err,  1 err,  0 out,  0 out"),
    row("--clean-metadata --host-id=9",        "1 out,  1 out,  1 err,  1 err,  0 out,  0 out"),
    row("--reinitialize-lockspace",            "1 out,  1 out,  1 err,  1 err,  1 err,  1 err"),
    row("--reinitialize-lockspace --force",    "1 out,  1 out,  1 err,  1 err,  0 out,  0 out"),
    row("--cluster-stop --wait=1",             "1 out,  1 out,  1 err,  1 both, 1 both, 1 both"),
    row("--cluster-start --wait=1",            "1 out,  1 out,  1 both, 1 both, 1 both, 1 both"),
    row("--history",                           "0 out,  0 out,  0 out,  0 out,  0 out,  0 out"),
    row("--audit",                             "1 err,  1 err,  1 err,  1 err,  1 err,  1 err"),
    row("--version",                           "0 out,  0 out,  0 out,  0 out,  0 out,  0 out"),
    row("--vm-start-paused",                   "1 err,  1 err,  1 err,  1 err,  1 err,  1 err"),
    row("--upgrade-appliance",                 "1 err,  1 err,  1 err,  1 err,  1 err,  1 err"),
)
# fmt: on


@pytest.fixture(scope="module")
def domain() -> Iterator[Path]:
    """Made once, copied for each test."""
    world = World()
    conf = load_hosted_engine_conf(world.paths.hosted_engine_conf)
    sizes = VolumeSizes(metadata=2001 * 4096, lockspace=MIB, configuration=MIB, lease=MIB)
    create_domain(conf.storage, conf.sd_uuid, DomainVolumes.of(conf), sizes, owner=None)
    write_identity(LocalDomain(conf.storage, conf.sd_uuid), conf.vm_disk_id, conf.vm_disk_vol_id)
    yield Path(conf.storage)
    world.close()


@pytest.fixture
def host(host: World, domain: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A whole deployment: three hosts, the third one stopped cleanly, storage, libvirt."""

    class Hypervisor(Engine):
        asked: ClassVar[List[Tuple[Any, ...]]] = []

    monkeypatch.setattr(waiting, "NOTICE", 60.0)
    monkeypatch.setattr(vm, "LibvirtEngineVm", Hypervisor)
    monkeypatch.setattr(vm, "Connection", Libvirt)
    monkeypatch.setattr(vm, "in_background", lambda _words: Mover())
    monkeypatch.setattr(console, "EngineConsole", Screen)
    monkeypatch.setattr(console, "Connection", lambda *_args: None)
    shutil.copytree(domain, host.storage, copy_function=os.link)
    archive = archive_of(host)  # the one file that is written to
    archive.unlink()
    archive.write_bytes(build_archive(MEMBERS))
    monkeypatch.setattr(shared_config, "SETTLE", 0.001)
    monkeypatch.setattr(shared_config, "ArchiveLock", NoLock)
    able = (("state", "EngineDown"), ("mig", "1"), ("mig.uri", "tcp://192.0.2.2"), ("cpu", "a"), ("mem", "4000"))
    host.publish(record(1, extra=(("state", "EngineUp"), ("cpu", "a"))), record(2, extra=able))
    host.publish(record(3, stopped=True))
    define(host)
    host.paths.agent_conf.parent.mkdir(parents=True, exist_ok=True)
    host.paths.agent_conf.write_text("[health]\nurl=http://127.0.0.1:9/\n")
    return host


class Mover:
    """A move that has begun."""

    returncode: Optional[int] = 0

    def communicate(self, timeout: float) -> Tuple[str, str]:
        return "", ""


def timed(*words: str) -> Ran:
    took = OwnTime()
    ran = run(*words)
    assert took.seconds < LONGEST, words
    assert "Traceback" not in ran.out + ran.err and "internal" not in ran.err
    return ran


def stream(ran: Ran) -> str:
    return {(True, False): OUT, (False, True): ERR, (True, True): BOTH}.get((bool(ran.out), bool(ran.err)), NEITHER)


def prepared(host: World, situation: Any, here: bool, patch: pytest.MonkeyPatch) -> World:
    if here:
        host.engine(UP, pid=77)
        host.publish(record(1, engine=UP, extra=(("state", "EngineUp"), ("cpu", "a"))))
    situation(host, patch)
    return host


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("each", TABLE, ids=lambda each: " ".join(each.words) + (" (VM here)" if each.here else ""))
def test_status_stream_and_time(host: World, situation: Any, each: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(host, situation, each.here, monkeypatch)
    before = host.paths.hosted_engine_conf.read_text()
    ran = timed(*each.words)
    expected = each.expected.split(",")[SITUATIONS.index(situation)].split()
    assert [str(ran.status), stream(ran)] == expected, ran
    if ran.status and "--set-shared-config" in each.words:
        assert host.paths.hosted_engine_conf.read_text() == before
    if "--json" in each.words:
        assert isinstance(json.loads(ran.out), dict)


def test_every_verb_is_in_the_table_or_has_one_of_its_own() -> None:
    """Those of upstream's command line must be here."""
    listed = {word for each in TABLE for word in each.words}
    upstream = {
        "--vm-start", "--vm-start-paused", "--vm-shutdown", "--vm-poweroff", "--vm-status", "--add-console-password",
        "--console", "--check-deployed", "--check-liveliness", "--connect-storage", "--disconnect-storage",
        "--set-maintenance", "--get-shared-config", "--set-shared-config", "--reinitialize-lockspace",
        "--clean-metadata",
    }  # fmt: skip
    assert upstream <= listed and upstream | {"--deploy"} <= {*VERBS, *verbs.GONE}


ALWAYS_WAIT = {"--cluster-stop", "--cluster-start"}


def plausible(verb: str) -> List[str]:
    """The verb with words, where it takes them, and without what waits, or with the shortest wait."""
    given = [
        verb,
        *(["--wait=1"] if verb in ALWAYS_WAIT else []),
        *(word for word in VERBS[verb].words.split() if not VERBS[verb].words.endswith("...")),
    ]
    for option, kind in VERBS[verb].options.items():
        if choices(kind) and not kind.startswith("["):
            given.append(f"{option}={choices(kind)[-1]}")
    return given


LISTED = {word for each in TABLE for word in each.words}
# A calculation that takes what it takes, and waits for nobody: it has tests of its own.
COMPUTE = {"--simulate"}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("verb", sorted({*VERBS} - LISTED - COMPUTE))
def test_any_other_verb_ends_in_time(host: World, situation: Any, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of verbs that come later."""
    prepared(host, situation, False, monkeypatch)
    ran = timed(*plausible(verb))
    assert ran.status in (0, 1, 2, 3, 4) and (ran.out or ran.err or ran.status == 0)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    "verb", sorted(verb for verb in {*VERBS} - COMPUTE if VERBS[verb].options.get("--json") == FLAG)
)
def test_json_is_one_object(host: World, situation: Any, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(host, situation, False, monkeypatch)
    ran = timed(*plausible(verb), "--json")
    answer = json.loads(ran.out)
    assert isinstance(answer, dict) and ran.out.count("\n") == 1
    assert "error" in answer or ran.status != 1


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_what_is_not_understood_changes_nothing(host: World, verb: str) -> None:
    normal(host, pytest.MonkeyPatch())
    before = dict(host.slots)
    for words in ((*plausible(verb), "--bogus"), (*plausible(verb), "--bogus=1", "--json"), (verb, verb, "--x")):
        ran = timed(*words)
        assert ran.status == 1
        assert (ran.out + ran.err).count("\n") == 1
    assert (host.slots, host.written, host.resets) == (before, [], 0)


@pytest.mark.parametrize("lie", ["", {"slots": b"x"}], ids=range(2))
@pytest.mark.parametrize("each", TABLE, ids=lambda each: " ".join(each.words) + (" (VM here)" if each.here else ""))
def test_a_broker_that_lies(host: World, each: Row, lie: Any) -> None:
    """Whatever it answers: a refusal or the truth from elsewhere, and nothing is done on its word."""
    host.make_volume()
    host.start_broker()
    for method in ("snapshot", "is_host_alive", "put_stats", "reset_lockspace", "wait_for_change"):
        host.lies[method] = lie
    ran = timed(*each.words)
    assert ran.status in (0, 1)
    safe = ("--vm-status", "--vm-poweroff", "--add-console-password", "--check-deployed", "--connect-storage",
            "--disconnect-storage", "--get-shared-config", "--set-shared-config", "--history", "--version",
            "--set-maintenance", "--host-shutdown")  # fmt: skip
    assert ran.status == 1 or each.words[0] in safe
    if each.words[-1] in ("--mode=global", "--mode=none"):
        assert ran.status == 1


def test_the_situations_are_what_they_say(host: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale peer's slot is there; what hangs is the storage and not the broker."""
    storage_hung(host, monkeypatch)
    found: Dict[str, Any] = timed("--vm-status", "--json").json
    assert found["2"]["sources"]["slot"] == {"from": "broker", "age": 90.0}
    assert {problem["code"] for problem in found["1"]["problems"]} == {"storage-overdue", "publish"}
    assert host.facts.monitors.engine == Reading.of(EngineFacts(host.facts.monitors.engine.value.status))
    assert slot.decode(3, host.slots[3]).stopped and LeaseOwner(0) != host.facts.leases.owner.value
