"""What the status shows, from three paths: the broker; where it does not answer, the shared volume directly; and
sanlock's list of hosts. Each with its age, and none may hang."""

import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Generic, List, Mapping, NamedTuple, Optional, Tuple, TypeVar

from ovirt_he_ha.cli.deployment import link_to_broker, look
from ovirt_he_ha.cli.hosts import Hosts, read_hosts
from ovirt_he_ha.cli.problems import Problem, local_problems
from ovirt_he_ha.cli.request import Refusal
from ovirt_he_ha.client.link import BrokerError, BrokerLink, BrokerSnapshot, BrokerUnavailable
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import MAX_HOST_ID, SLOT_SIZE, HostLease, LeaseOwner, Reading, Record
from ovirt_he_ha.core.timers import Timers

T = TypeVar("T")

BROKER, VOLUME, SANLOCK, AGENT, CLOCK, NOBODY = "broker", "volume", "sanlock", "agent", "clock", "none"
BROKER_SECONDS = 1.0  # wall: it answers from its memory
VOLUME_SECONDS = 1.2  # wall, for all slots: 8 MB
SANLOCK_SECONDS = 0.5  # wall: the daemon's memory
_PART = 256  # slots read at once: 1 MiB
_MUTE_SECONDS = 0.1  # wall, for one process's command line: 20 us where nothing hangs
_MOST_MUTE = 3  # processes that do not tell theirs; the rest is not asked
_MOST_STUCK = 2  # readers of earlier calls that hang in the kernel; one more would hang at the same place


class Origin(NamedTuple):
    """Where a datum comes from and how old it is, in seconds; None when nobody can tell."""

    source: str
    age: Optional[float]


@dataclass(frozen=True)
class View:
    """``live``: whose word ``hosts.alive`` is. ``serial``: the broker's, for wait_for_change; None without it.
    ``owner``: of the VM's lease."""

    hosts: Hosts
    problems: List[Problem]
    slots: Origin
    live: Origin
    leases: "Reading[Mapping[int, HostLease]]"
    leases_from: str
    owner: "Reading[LeaseOwner]" = field(default_factory=lambda: Reading.missing("not-asked"))
    serial: Optional[int] = None

    def lease_of(self, host_id: int) -> str:
        """sanlock's word for a host; ``unknown`` where it has none."""
        flag = self.leases.value.get(host_id) if self.leases.value is not None else None
        return flag.value if flag is not None else "unknown"


def gather(paths: HostPaths, conf: HostedEngineConf, link: Optional[BrokerLink] = None) -> View:
    """Within 3 s, whatever hangs. Raises Refusal, with the reasons of both, when neither the broker nor the volume can
    be read."""
    own = link or link_to_broker(paths)
    kept = own.deadline
    own.deadline = BROKER_SECONDS
    try:
        snapshot, alive = look(own)
    except BrokerError as error:
        return _without_broker(conf, error)
    finally:
        own.deadline = kept
        if link is None:
            own.close()
    return _by_broker(paths, conf, snapshot, alive)


def _by_broker(paths: HostPaths, conf: HostedEngineConf, snapshot: BrokerSnapshot, alive: Tuple[int, ...]) -> View:
    hosts = read_hosts(snapshot, alive)
    problems = [*local_problems(snapshot, conf.host_id, alive, paths), *_flag_problem(hosts)]
    return View(
        hosts,
        problems,
        Origin(BROKER, snapshot.slots_age),
        Origin(AGENT, None),
        snapshot.leases.hosts,
        BROKER,
        snapshot.leases.owner,
        snapshot.serial,
    )


def _flag_problem(hosts: Hosts) -> List[Problem]:
    if hosts.global_maintenance.value is not None:
        return []
    return [Problem("global-flag", "Whether the cluster is in global maintenance cannot be read from slot 0")]


# --- without the broker --------------------------------------------------------------------------------------------


def _without_broker(conf: HostedEngineConf, error: BrokerError) -> View:
    from ovirt_he_ha.cli.failure import explain

    why = explain(error)
    asked = _Asked(lambda: _sanlock_hosts(conf.sd_uuid))
    try:
        slots, read_at = _read_volume(conf)
    except _Unreadable as unreadable:
        raise Refusal(why.code, f"{why}\nThe shared volume cannot be read directly either: {unreadable}") from error
    leases = asked.reading(SANLOCK_SECONDS)
    snapshot = BrokerSnapshot(host_id=conf.host_id, slots=slots, slots_age=max(0.0, time.monotonic() - read_at))
    hosts = read_hosts(snapshot, ())
    hosts = Hosts(hosts.slots, hosts.texts, _live_by_clock(hosts, conf.host_id), hosts.global_maintenance)
    problems = [
        Problem(why.code, f"{why}"),
        Problem(
            "read-directly",
            "All this was read from the shared volume directly. Which other hosts are live is not known without the "
            "broker: they show as stale",
        ),
        *_flag_problem(hosts),
    ]
    origin = Origin(VOLUME, snapshot.slots_age)
    return View(hosts, problems, origin, Origin(CLOCK, origin.age), leases, SANLOCK)


def _live_by_clock(hosts: Hosts, own_id: int) -> Tuple[int, ...]:
    """A host's timestamps are its own monotonic clock: only this host's can be compared with now."""
    from ovirt_he_ha.config.clock import SystemClock

    own = hosts.slots.get(own_id)
    if not isinstance(own, Record):
        return ()
    age = SystemClock().monotonic() - own.timestamp
    return (own_id,) if -1 <= age < Timers().liveness_limit else ()


class _Unreadable(Exception):
    """The volume, and why."""


def _read_volume(conf: HostedEngineConf) -> Tuple[Dict[int, bytes], float]:
    """Every slot in use, and the monotonic wall second of the read. By a process of its own: a thread that hung in the
    storage would keep this one from its end."""
    from ovirt_he_ha.client.bounded_volume import BoundedVolume
    from ovirt_he_ha.storage.domain_place import domain_of
    from ovirt_he_ha.storage.errors import StorageError

    domain = domain_of(conf)
    path = domain.volume_path(conf.metadata_image_uuid, conf.metadata_volume_uuid)
    if stuck_readers(path) >= _MOST_STUCK:
        raise _Unreadable(f"{path}: readers of earlier calls still hang there; restore the path to the storage")
    slots: Dict[int, bytes] = {}
    read_at = time.monotonic()
    try:
        with BoundedVolume(path, VOLUME_SECONDS) as volume:
            for first in range(0, MAX_HOST_ID + 1, _PART):
                count = min(_PART, MAX_HOST_ID + 1 - first)
                data = volume.read_at(first * SLOT_SIZE, count * SLOT_SIZE)
                for at in range(count):
                    one = data[at * SLOT_SIZE : (at + 1) * SLOT_SIZE]
                    if one[:1] != b"\0":
                        slots[first + at] = one
    except StorageError as error:
        raise _Unreadable(str(error)) from error
    return slots, read_at


def stuck_readers(path: str, proc: str = "/proc") -> int:
    """Processes that read this volume and sleep in the kernel where no signal reaches them. Within 0.3 s (wall): only
    of those that sleep so, which tells without a lock, the command line is read, and that may hang itself."""
    wanted = path.encode()
    found = mute = 0
    for entry in Path(proc).iterdir():
        if not entry.name.isdigit() or not _sleeps_deeply(entry):
            continue
        command = _Asked(partial(_command, entry)).reading(_MUTE_SECONDS)
        if command.value is not None:
            words = command.value.split(b"\0")
            found += wanted in words and any(word.endswith(b"/io_process.py") for word in words)
        elif command.unknown == "overdue":  # no reader of ours: those sleep with nothing locked
            mute += 1
            if mute == _MOST_MUTE:
                break
    return found


def _sleeps_deeply(entry: Path) -> bool:
    try:
        return (entry / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"D"
    except (OSError, IndexError):
        return False  # it has ended meanwhile


def _command(entry: Path) -> bytes:
    return (entry / "cmdline").read_bytes()


def _sanlock_hosts(lockspace: str) -> Mapping[int, HostLease]:
    """Raises whatever the binding does."""
    from ovirt_he_ha.lease.binding import load
    from ovirt_he_ha.lease.lockspace import FLAGS

    found = load().get_hosts(lockspace.encode())
    return {int(host["host_id"]): FLAGS.get(int(host["flags"]), HostLease.UNKNOWN) for host in found}


class _Asked(Generic[T]):
    """A question on a thread of its own, which is left behind when it hangs."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._answer: List[Any] = []
        self._at = 0.0
        self._thread = threading.Thread(target=self._ask, args=(question,), daemon=True)
        self._thread.start()

    def _ask(self, question: Callable[[], T]) -> None:
        try:
            found: Any = question()
        except Exception as error:  # told in the reading: what sanlock's binding raises is its own
            found = error
        self._at = time.monotonic()
        self._answer.append(found)

    def reading(self, seconds: float) -> "Reading[T]":
        self._thread.join(seconds)
        if not self._answer:
            return Reading.missing("overdue")
        (found,) = self._answer
        age = max(0.0, time.monotonic() - self._at)
        if isinstance(found, Exception):
            return Reading.missing(type(found).__name__, age)
        return Reading.of(found, age)


def is_broker_back(link: BrokerLink) -> bool:
    """A question that costs no storage access."""
    kept, link.deadline = link.deadline, BROKER_SECONDS
    try:
        link.is_host_alive()
    except BrokerUnavailable:
        return False
    except BrokerError:
        return True
    finally:
        link.deadline = kept
    return True
