"""The nouns: what a host knows in one cycle, and what it decides.

Everything here is a frozen dataclass or an enum. Times named ``now`` or ``*_at`` are product seconds of this
host's monotonic clock; times named ``age`` are seconds before ``now``. A value that could not be measured is
not a default: it is a :class:`Reading` without a value, and says why.
"""

from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import ClassVar, Dict, Generic, Mapping, Optional, Tuple, TypeVar, Union

T = TypeVar("T")

SLOT_SIZE = 4096
GLOBAL_SLOT = 0
MAX_HOST_ID = 2000


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A measured value with its age, or an explicit unknown.

    ``value`` is None exactly when ``unknown`` holds a short code such as ``not-yet``, ``overdue``, ``error``.
    ``age`` is in seconds since the measurement finished (of the last try, when unknown); None if never tried.
    """

    value: Optional[T] = None
    age: Optional[float] = None
    unknown: str = "not-yet"

    @property
    def known(self) -> bool:
        return self.value is not None

    @classmethod
    def of(cls, value: T, age: float = 0.0) -> "Reading[T]":
        return cls(value, age, "")

    @classmethod
    def missing(cls, why: str, age: Optional[float] = None) -> "Reading[T]":
        return cls(None, age, why)


# --- the engine VM on this host ---------------------------------------------------------------------------


class Vm(str, Enum):
    """``vm`` of the engine status, in the words of the shared slot (ha.md 3.6)."""

    UP = "up"
    DOWN = "down"
    DOWN_UNEXPECTED = "down_unexpected"
    DOWN_MISSING = "down_missing"
    UNKNOWN = "unknown"


class Health(str, Enum):
    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class EngineStatus:
    """What a slot says of the engine VM. ``detail`` is a word such as ``Up``, ``Paused``, ``Migration Source``."""

    vm: Vm
    health: Health
    detail: str = "unknown"
    reason: str = ""


class Exit(str, Enum):
    """Why the VM last left this host. NONE: it has not left since the broker looks."""

    NONE = "none"
    GUEST_SHUTDOWN = "guest-shutdown"  # the guest powered itself off, nobody asked from outside
    REQUESTED = "requested"  # shutdown or destroy asked through libvirt on this host
    MIGRATED = "migrated"
    CRASHED = "crashed"  # qemu died or the guest panicked
    LEASE_LOST = "lease-lost"
    FAILED = "failed"  # it never came up


@dataclass(frozen=True)
class GuestCounters:
    """Cumulative counters of the copy of the VM that runs here, read at ``at`` (product seconds, monotonic).

    Only differences between two readings of the same copy mean anything. ``cpu_seconds``: CPU time used by all
    threads, in wall seconds, not product seconds. ``block_requests``: reads, writes and flushes of all its disks;
    None when they could not be read.
    """

    at: float
    cpu_seconds: Optional[float] = None
    block_requests: Optional[int] = None


@dataclass(frozen=True)
class EngineFacts:
    """The engine VM as this host's libvirt sees it; finer than what is published.

    ``uptime``: seconds the current copy's CPUs have been running here. ``paused_for``: seconds it has been paused;
    None when it is not paused. ``pause_reason``: libvirt's word (``user``, ``ioerror``, ``migration``, ...).
    ``stalled_for``: seconds without any guest CPU and without any disk progress (or both pinned at a crash-like
    pattern); None when unknown. ``guest_agent``: False means it answered before and is dead now. ``bad_for``:
    seconds since health was last good, within the life of this copy. ``lease_defined``: lease of the running
    definition equals the computed one, field by field.
    """

    status: EngineStatus
    last_exit: Exit = Exit.NONE
    exit_age: Optional[float] = None
    uptime: Optional[float] = None
    paused_for: Optional[float] = None
    pause_reason: str = ""
    bad_for: Optional[float] = None
    stalled_for: Optional[float] = None
    guest_agent: Optional[bool] = None
    pid: Optional[int] = None
    lease_defined: Optional[bool] = None
    incoming: bool = False  # a migration into this host is under way
    outgoing: bool = False  # a migration out of this host is under way
    counters: Optional[GuestCounters] = None  # raw; the broker's engine monitor derives ``stalled_for`` from them


# --- slots ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One host's slot, decoded. ``timestamp`` is the publisher's monotonic second: only its change means anything.

    ``extra`` holds every ``key=value`` of the free text in order; ``extra_ok`` says whether our ``crc=`` over the free
    text was present and right (an upstream peer publishes none: False, and that is no fault).
    ``engine`` is None when the host published ``null`` (no reading yet).
    """

    host_id: int
    timestamp: int
    score: int
    engine: Optional[EngineStatus]
    hostname: str
    maintenance: bool = False
    stopped: bool = False
    conf_on_shared_storage: bool = True
    local_conf_timestamp: int = 0
    crc32: str = ""
    parse_version: int = 1
    feature_version: int = 1
    extra: Tuple[Tuple[str, str], ...] = ()
    extra_ok: bool = False

    def get(self, key: str, default: str = "") -> str:
        """The last value of ``key`` in the free text."""
        # Made at the first question and kept beside the fields: the policy asks each of 250 peers for the same four.
        texts = self._texts
        if texts is None:
            texts = dict(self.extra)
            object.__setattr__(self, "_texts", texts)
        return texts.get(key, default)

    _texts: ClassVar[Optional[Dict[str, str]]] = None


@dataclass(frozen=True)
class Invalid:
    """A slot that holds something, but no record. ``reason`` is a code: ``crc``, ``too-new``, ``short-line``, ..."""

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Empty:
    """First byte NUL: never used, or cleaned."""


Slot = Union[Record, Invalid, Empty]


# --- leases ------------------------------------------------------------------------------------------------------


class HostLease(str, Enum):
    """sanlock's flag for a host id in the storage domain's lockspace. At io_timeout 10 s: LIVE while it renews (every
    20 s), FAIL after 80 s of silence, DEAD after 140 s and more; UNKNOWN for the first renewals after our own join."""

    UNKNOWN = "unknown"
    FREE = "free"
    LIVE = "live"
    FAIL = "fail"
    DEAD = "dead"


class LockspaceState(str, Enum):
    HELD = "held"
    JOINING = "joining"
    NOT_HELD = "not-held"
    ID_TAKEN = "id-taken"  # another host holds our id
    MISMATCH = "mismatch"  # this sanlock holds the lockspace under another id
    NO_DAEMON = "no-daemon"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class LeaseId:
    """The resource that guards the VM: all four must be equal on every host (S1)."""

    lockspace: str
    key: str
    path: str
    offset: int = 0


@dataclass(frozen=True)
class LeaseOwner:
    """Owner record on disk. ``host_id`` 0: nobody holds it.

    ``version``: sanlock adds one whenever somebody takes the lease, and a release leaves it; 0: not known. It says in
    which order the lease changed hands, and no decision looks at it: two records that differ in nothing else are equal.
    """

    host_id: int
    generation: int = 0
    timestamp: int = 0
    version: int = field(default=0, compare=False)


@dataclass(frozen=True)
class LeaseFacts:
    """What sanlock tells this host.

    ``lockspace`` is the storage domain's (sdUUID), ``whiteboard`` is ``hosted-engine``. ``hosts`` maps id -> flag
    from the storage domain's lockspace (ids that sanlock does not list are absent). ``io_timeout`` and ``watchdog``
    in seconds. ``reset_within``: seconds within which the watchdog resets this host, because its sanlock died with the
    lockspace; None: no reset is expected. ``owner_silent``: seconds since sanlock saw the host of the lease's owner
    renew its id, once it is late with that; None: it is not late, or not known. ``joining_for``: seconds that a join of
    one of the lockspaces has taken so far. Both are for countdowns only. ``renewed_ago``: seconds since sanlock last
    renewed this host's id in the storage domain's lockspace, by its own word; None: not known. ``owner_left``: the
    generation under which the host of the lease's owner had the id that sanlock now calls FREE (asked by its number, as
    such ids are not in ``hosts``), 0 if it never had it; None: it has not left, or not known. ``owner_left_for``:
    seconds since sanlock first said so of that generation.
    """

    lockspace: Reading[LockspaceState] = Reading()
    whiteboard: Reading[LockspaceState] = Reading()
    hosts: Reading[Mapping[int, HostLease]] = Reading()
    owner: Reading[LeaseOwner] = Reading()
    own_generation: Optional[int] = None
    io_timeout: int = 10
    watchdog: int = 60
    watchdog_armed: Optional[bool] = None
    reset_within: Optional[float] = None
    owner_silent: Optional[float] = None
    joining_for: Optional[float] = None
    renewed_ago: Optional[float] = None
    owner_left: Optional[int] = None
    owner_left_for: Optional[float] = None


# --- the snapshot -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Monitors:
    network: Reading[float] = Reading()  # share of good probes, 0.0..1.0
    bridge: Reading[bool] = Reading()
    mem_free: Reading[int] = Reading()  # MiB
    cpu_load: Reading[float] = Reading()  # 0.0..1.0, engine share subtracted
    storage_latency: Reading[float] = Reading()  # seconds of the last read on the real path
    engine: Reading[EngineFacts] = Reading()


@dataclass(frozen=True)
class ScoreConfig:
    """agent.conf [score] (ha.md 1.6): must be equal on all hosts."""

    base_score: int = 3400
    network_penalty: int = 1600
    not_uptodate_penalty: int = 1000
    bridge_penalty: int = 600
    memory_penalty: int = 400
    cpu_penalty: int = 1000
    retry_penalty: int = 50
    cpu_min: float = 0.4
    cpu_max: float = 0.9


@dataclass(frozen=True)
class Safeguards:
    """What this host knows of its own guards, for the protection meter only: no decision looks at it. Empty and None:
    not known.

    ``lock_manager``: ``sanlock``; ``off``; ``stale`` (libvirt's daemon runs since before its configuration changed);
    another manager's name. ``second_network``: the address that takes migrations is not the management network's.
    ``deployment``: digest of what must be the same in ``hosted-engine.conf`` on all hosts. The rest are versions.
    """

    lock_manager: str = ""
    second_network: Optional[bool] = None
    deployment: str = ""
    broker: str = ""
    libvirt: str = ""
    sanlock: str = ""


@dataclass(frozen=True)
class HostFacts:
    """This host and what its files say, read anew each cycle.

    ``definition_problem``: empty, or why the VM's definition is refused (``no-lease``, ``foreign-lease``, ``qcow2``
    ...). ``lease``: the computed lease. ``can_migrate``: this host may receive the VM (``mig=1`` is published).
    ``migration_address``: where a peer sends the VM, empty if none. ``cpu_model``: digest published for D7's fit.
    ``local_maintenance`` unknown: ha.conf could not be read. It is True as well while the host goes down; then
    ``leave_by`` is the moment (monotonic) by which the VM must have left or ended, None otherwise. ``end_reason``: why
    the last local maintenance was ended. ``global_reason``, ``global_since`` (seconds since the epoch, 0: not asked
    here): the words with which the cluster's maintenance that is on was asked on this host.
    """

    host_id: int
    hostname: str
    boot_id: str
    local_maintenance: Reading[bool] = Reading()
    maintenance_reason: str = ""
    end_reason: str = ""
    global_reason: str = ""
    global_since: int = 0
    leave_by: Optional[float] = None
    memory_needed: int = 0  # MiB
    conf_timestamp: int = 0
    lease: Optional[LeaseId] = None
    definition_problem: str = ""
    can_migrate: bool = False
    migration_address: str = ""
    cpu_model: str = ""
    allow_unfenced: bool = False
    score: ScoreConfig = ScoreConfig()
    version: str = ""
    safeguards: Safeguards = Safeguards()


# How far a local maintenance has got: the published ``maintenance_state=``.
PREPARING = "preparing"
PREPARED = "in-maintenance"
PREPARING_FAILED = "error-in-preparing"


class ActionKind(str, Enum):
    START = "start"
    STOP = "stop"  # ask the guest (ACPI)
    POWER_OFF = "power-off"
    MIGRATE = "migrate"


@dataclass(frozen=True)
class Action:
    kind: ActionKind
    target_id: int = 0  # MIGRATE: the destination's host id
    target_address: str = ""  # MIGRATE: what the destination publishes as migration address
    deadline: float = 0.0  # seconds the action may take


class Outcome(str, Enum):
    OK = "ok"
    LOST_RACE = "lost-race"  # START: the lease is somebody else's. No penalty (D3)
    REFUSED = "refused"  # the definition or a precondition forbids it
    FAILED = "failed"
    OVERDUE = "overdue"


@dataclass(frozen=True)
class ActionReport:
    """The agent's one action worker. While ``outcome`` is None the action runs since ``started_at``."""

    action: Action
    started_at: float
    outcome: Optional[Outcome] = None
    finished_at: Optional[float] = None
    detail: str = ""


@dataclass(frozen=True)
class Reason:
    """Why, as data: a code of core/reasons.py and its values."""

    code: str
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class GuardReport:
    """What the guard over the copy that runs here says.

    ``state``: empty (no copy here), ``starting`` (no lease yet), ``guarded``, ``suspended`` (our own hand-over or
    start), ``unverified`` (something of the audit could not be read lately), ``blind`` (sanlock's answer is not
    understood), ``threatened`` (killed at ``kill_at``, product seconds of the monotonic clock, unless ``reason`` ends
    before), ``killing``.
    """

    state: str = ""
    reason: Optional[Reason] = None
    kill_at: Optional[float] = None


@dataclass(frozen=True)
class Snapshot:
    """All that one decision may look at."""

    now: float
    wall_offset: float  # wall clock minus ``now``: for the human-readable lines only
    host: HostFacts
    slots: Mapping[int, Slot]  # every id the broker reads, 0 and own included
    slots_age: Optional[float]  # seconds since the broker's last good read of the volume; None: never
    global_maintenance: Reading[bool]
    monitors: Monitors
    leases: LeaseFacts
    carried: "Carried"
    report: Optional[ActionReport] = None  # running, or finished since the last cycle
    stopping: bool = False  # the agent was told to stop: publish AgentStopped
    publish_failed_for: Optional[float] = None  # seconds since our slot was last written; None: it is fresh
    fencing: str = ""  # the kill path: empty, `killing`, or `stuck` (the process survived)
    storage_problem: str = ""  # the broker's named state of the volume, empty when reads and writes work
    overwritten: bool = False  # somebody else wrote our slot since our last write
    state_problem: str = ""  # why the budgets cannot be written to this host's disk, empty when they can
    ledger_problem: str = ""  # why the ledger's lines are not written, empty when they are
    guard: GuardReport = GuardReport()  # the guard over the copy that runs here


# --- what outlives a cycle ------------------------------------------------------------------------------------------


class State(str, Enum):
    """oVirt's names (ha.md 7): the published ``state=``."""

    START = "StartState"
    REINITIALIZE = "ReinitializeFSM"
    GLOBAL_MAINTENANCE = "GlobalMaintenance"
    LOCAL_MAINTENANCE = "LocalMaintenance"
    UNKNOWN_LOCAL_VM = "UnknownLocalVmState"
    ENGINE_DOWN = "EngineDown"
    ENGINE_START = "EngineStart"
    ENGINE_STARTING = "EngineStarting"
    ENGINE_UP = "EngineUp"
    ENGINE_UP_BAD_HEALTH = "EngineUpBadHealth"
    ENGINE_STOP = "EngineStop"
    ENGINE_FORCE_STOP = "EngineForceStop"
    ENGINE_MAYBE_AWAY = "EngineMaybeAway"
    ENGINE_UNEXPECTEDLY_DOWN = "EngineUnexpectedlyDown"
    AGENT_STOPPED = "AgentStopped"


PAST = 30  # earlier contents of a slot that are known again: 5 minutes of a host that publishes every 10 s


@dataclass(frozen=True)
class Seen:
    """One peer's slot over time: ``token`` identifies the content, ``changed_at`` when a *change* was last seen
    (None: no change since we look), ``since`` when we first looked. ``past``: tokens before this one, the last first;
    one of them that shows up again is the volume going back, not the host going on."""

    token: str
    since: float
    changed_at: Optional[float] = None
    past: Tuple[str, ...] = ()

    def followed_by(self, token: str, at: float) -> "Seen":
        """The same peer once its slot changed."""
        return Seen(token, self.since, at, (self.token, *self.past)[:PAST])


@dataclass(frozen=True)
class Budgets:
    """Clocks and counters that survive a restart of the agent on the same boot (state directory). All times
    monotonic."""

    start_failures: int = 0
    next_start_at: float = 0.0
    crashes: Tuple[float, ...] = ()  # times of crashes in the window
    backoff_step: int = 0
    hung_restarts: Tuple[float, ...] = ()
    moves: Tuple[float, ...] = ()
    handed_over_until: float = 0.0  # score 0 until then
    healthy_since: Optional[float] = None


@dataclass(frozen=True)
class LoadSample:
    at: float
    load: Optional[float]


@dataclass(frozen=True)
class Carried:
    """What the previous cycle hands to the next one."""

    state: State = State.START
    entered_at: float = 0.0
    started_at: float = 0.0  # when this agent began to look
    seen: Mapping[int, Seen] = field(default_factory=lambda: MappingProxyType({}))
    loads: Tuple[LoadSample, ...] = ()
    budgets: Budgets = Budgets()
    own_start_at: Optional[float] = None  # our last START, while its VM may still be coming up
    startable_since: Optional[float] = None  # lease free or owner DEAD since
    no_peer_since: Optional[float] = None  # nobody else could start it since (last resort, S3)
    better_peer_since: Optional[float] = None
    migration: Optional[Action] = None
    migration_tries: int = 0
    migration_error: str = ""
    next_migration_at: float = 0.0
    stop_asked_at: Optional[float] = None
    stop_purpose: str = ""  # why EngineStop was entered: ``hung``, ``hand-over``, ``maintenance``, ``never-healthy``
    stop_limit: float = 0.0  # seconds from ``stop_asked_at`` to the power-off
    start_problem: str = ""  # code of the last failed start, until one succeeds
    start_detail: str = ""
    hold_down_until: Optional[float] = None  # D4: `up` stays published until then
    notes: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


# --- the decision -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Countdown:
    """The next thing that can happen, and the moment (monotonic) at which it can."""

    event: str
    at: float
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Penalty:
    code: str
    points: int
    value: str = ""


@dataclass(frozen=True)
class ScoreCard:
    base: int
    penalties: Tuple[Penalty, ...]
    score: int
    zero_reason: str = ""  # why it is 0 whatever the formula says


@dataclass(frozen=True)
class Fence:
    """The engine's process here must die now, and be confirmed gone (S2). Not an action: also in global maintenance.
    ``pid`` 0: every process of the VM here."""

    reason: str
    deadline: float  # seconds from now
    pid: int = 0


class Level(str, Enum):
    """Of one finding, and (but for NOTE and UNKNOWN) of the whole cluster: the worst of its findings, an unknown
    counting as DEGRADED."""

    NOTE = "note"  # worth knowing, nothing is missing
    UNKNOWN = "unknown"  # whether something is missing cannot be told
    DEGRADED = "degraded"  # the VM is guarded, and something that guards it is missing
    UNPROTECTED = "unprotected"  # the VM could run twice, or nobody would start it again
    PROTECTED = "protected"


@dataclass(frozen=True)
class Finding:
    """One thing that the protection meter found: a code of core/findings.py, the hosts that it is about (none: the
    cluster), and its values."""

    code: str
    level: Level
    hosts: Tuple[int, ...] = ()
    values: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Protection:
    """The meter as one host reads it: ``findings`` the worst first. ``vm_host`` 0: no live host says that the VM runs
    there. ``spares``: hosts that could take it over."""

    level: Level = Level.DEGRADED
    findings: Tuple[Finding, ...] = ()
    vm_host: int = 0
    spares: Tuple[int, ...] = ()
    deployed: int = 0


@dataclass(frozen=True)
class Decision:
    state: State
    action: Optional[Action]
    score: ScoreCard
    record: Optional[Record]  # what to publish; None: publish nothing (host id not proven ours)
    alive: Tuple[int, ...]  # live peers, for push_hosts_state
    reasons: Tuple[Reason, ...]
    countdowns: Tuple[Countdown, ...]
    carried: Carried
    wake_at: float  # the next cycle at the latest
    fence: Optional[Fence] = None
    abort_migration: bool = False
    protection: Protection = Protection()
