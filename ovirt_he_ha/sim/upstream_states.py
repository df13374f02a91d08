"""oVirt's own state machine: facts in, next state out, with the flaws it has.

Written from the behaviour, not to be good: an own score that is a cycle old, an alive list that is still empty when
the machine already decides, a retry counter that is wiped at once, a flag of a cleanly stopped peer that nobody looks
at. :func:`step` is pure; an action that a state carries out is named in the :class:`Step`, with where it leads.
"""

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Callable, Mapping, Optional, Tuple

from ovirt_he_ha.sim.upstream_score import HISTORY, Weights, mean_load, score
from ovirt_he_ha.sim.upstream_slots import AgentDies, Peer, Status, engine_rank

WAIT = 10  # seconds of the loop; a "now" transition has 0
ALIVE = 60
RETRY_EXPIRES = 600
THRESHOLD = 800  # points

START = "start"
STOP = "stop"
FORCE_STOP = "force-stop"

LIMITS: Mapping[str, Tuple[int, str, int]] = {
    # state: limit, destination, delay
    "EngineStarting": (600, "EngineStop", WAIT),
    "EngineUpBadHealth": (300, "EngineStop", WAIT),
    "EngineStop": (300, "EngineForceStop", WAIT),
    "EngineMaybeAway": (40, "EngineUnexpectedlyDown", 0),
    "EngineUnexpectedlyDown": (560, "EngineDown", WAIT),
}
# T timer, G global maintenance, U local VM unknown, L local maintenance; in the order in which they are looked at.
GUARDS: Mapping[str, str] = {
    "StartState": "",
    "ReinitializeFSM": "GUL",
    "GlobalMaintenance": "GL",
    "LocalMaintenance": "L",
    "UnknownLocalVmState": "GUL",
    "EngineDown": "GUL",
    "EngineStart": "GUL",
    "EngineStarting": "TGUL",
    "EngineUp": "GU",
    "EngineUpBadHealth": "TGU",
    "EngineStop": "TGLU",
    "EngineForceStop": "GLU",
    "EngineMaybeAway": "TGUL",
    "EngineUnexpectedlyDown": "TGUL",
}
# Published `timeout=`, once the timer runs.
SHOWS_TIMEOUT = ("EngineStop", "EngineUpBadHealth", "EngineUnexpectedlyDown")

_ZERO = ("StartState", "ReinitializeFSM", "EngineUnexpectedlyDown", "LocalMaintenance", "AgentStopped")
_WITHOUT_MEMORY = ("EngineUp", "EngineUpBadHealth", "GlobalMaintenance")


@dataclass(frozen=True)
class Collected:
    """What one collection found. Times are whole seconds of the host's monotonic clock. ``engine`` None: the engine
    monitor has no value yet."""

    start: int
    finish: int
    peers: Mapping[int, Peer] = field(default_factory=lambda: MappingProxyType({}))
    global_maintenance: bool = False
    local_maintenance: bool = False
    engine: Optional[Status] = None
    network: float = 1.0
    bridge: bool = True
    mem_free: Optional[float] = None
    load: Optional[float] = None
    mem_needed: int = 0
    uptodate: bool = True


@dataclass(frozen=True)
class Facts:
    """A collection with its history (newest first, itself included), and what follows from both."""

    own_id: int
    now: Collected
    history: Tuple[Collected, ...]

    def add(self, collected: Collected) -> "Facts":
        kept = tuple(old for old in self.history if old.start > collected.start - HISTORY)
        return Facts(self.own_id, collected, (collected, *kept))

    @property
    def span(self) -> int:
        return self.history[0].finish - self.history[-1].finish

    def alive(self) -> Tuple[int, ...]:
        """Peers whose timestamp is not what it was more than 60 s ago. While no collection is that old: nobody, even
        if every peer lives."""
        old = next((each for each in self.history[1:] if each.finish + ALIVE < self.now.start), None)
        if old is None:
            return ()
        found = []
        for host_id, peer in sorted(self.now.peers.items()):
            if peer.status is None:
                continue
            before = old.peers.get(host_id)
            if before is None or before.timestamp != peer.timestamp:
                found.append(host_id)
        return tuple(found)

    def best_engine(self) -> Tuple[Status, int]:
        """The best engine's status and whose it is: ours unless a live peer has a better one."""
        best_id, best, rank = 0, None, -1
        for host_id in self.alive():
            status = self.now.peers[host_id].status
            if status is not None and engine_rank(status) > rank:
                best_id, best, rank = host_id, status, engine_rank(status)
        own = self.now.engine
        if own is None:
            # Not known yet is not foreseen.
            raise AgentDies("no value of the engine monitor")
        if best is None or engine_rank(own) >= rank:
            return own, self.own_id
        return best, best_id

    def best_remote_score(self) -> Optional[int]:
        scores = [self.now.peers[host_id].score for host_id in self.alive()]
        return max(scores) if scores and max(scores) > 0 else None


@dataclass(frozen=True)
class Machine:
    """The current state object. ``score`` was computed from the facts it was made with, and is what was published."""

    state: str = "StartState"
    timer: Optional[int] = None
    retries: int = 0
    retried_at: Optional[int] = None
    score: int = 0

    @property
    def timeout(self) -> Optional[int]:
        if self.timer is None or self.state not in SHOWS_TIMEOUT:
            return None
        return self.timer + LIMITS[self.state][0]


@dataclass(frozen=True)
class Step:
    """Where to, after how many seconds. With an ``action``: ``failed`` instead when it does not succeed."""

    state: str
    delay: int = WAIT
    action: str = ""
    failed: str = ""


def refresh(machine: Machine, wall: float) -> Machine:
    """Once per collection. The last try's monotonic second is compared with the wall clock, so that it has always
    expired: the counter is wiped at once, whatever was meant."""
    if machine.retried_at is not None and wall - machine.retried_at >= RETRY_EXPIRES:
        return replace(machine, retries=0)
    return machine


def step(machine: Machine, facts: Facts) -> Step:
    """What is derived from the facts first, then guards, then the body. Raises AgentDies where upstream's raises."""
    if facts.alive():
        facts.best_engine()
    for guard in GUARDS[machine.state]:
        guarded = _GUARDS[guard](machine, facts)
        if guarded is not None:
            return guarded
    return _BODIES[machine.state](machine, facts)


def enter(machine: Machine, facts: Facts, taken: Step, ok: bool, weights: Weights) -> Machine:
    """The state object after the step, and after its action, if it had one."""
    to = taken.state if ok or not taken.action else taken.failed
    retries, retried_at = machine.retries, machine.retried_at
    if taken.action == START:
        retries, retried_at = (0 if ok else retries + 1), facts.now.finish
    timer = machine.timer if to == machine.state else None
    if to == machine.state and to in LIMITS and timer is None:
        timer = facts.now.finish
    entered = Machine(to, timer, retries, retried_at)
    return replace(entered, score=state_score(entered, facts, weights))


def state_score(machine: Machine, facts: Facts, weights: Weights) -> int:
    if machine.state in _ZERO:
        return 0
    now = facts.now
    return score(
        weights,
        now.network,
        now.bridge,
        mean_load((each.start, each.load) for each in facts.history),
        now.mem_free,
        now.mem_needed,
        machine.state not in _WITHOUT_MEMORY,
        machine.retries,
        now.uptodate,
    )


# --- guards ---------------------------------------------------------------------------------------------------------


def _timer(machine: Machine, facts: Facts) -> Optional[Step]:
    limit, destination, delay = LIMITS[machine.state]
    if machine.timer is not None and machine.timer + limit < facts.now.finish:
        return Step(destination, delay)
    return None


def _global(machine: Machine, facts: Facts) -> Optional[Step]:
    return Step("GlobalMaintenance") if facts.now.global_maintenance else None


def _unknown(machine: Machine, facts: Facts) -> Optional[Step]:
    return Step("UnknownLocalVmState") if _vm(facts) == "unknown" else None


def _local(machine: Machine, facts: Facts) -> Optional[Step]:
    return Step("LocalMaintenance") if facts.now.local_maintenance else None


_GUARDS: Mapping[str, Callable[[Machine, Facts], Optional[Step]]] = {
    "T": _timer,
    "G": _global,
    "U": _unknown,
    "L": _local,
}


# --- bodies ---------------------------------------------------------------------------------------------------------


def _vm(facts: Facts) -> str:
    return _word(facts, "vm")


def _word(facts: Facts, key: str) -> str:
    if facts.now.engine is None:
        raise AgentDies("no value of the engine monitor")
    return facts.now.engine[key]


def _start_state(machine: Machine, facts: Facts) -> Step:
    return Step("ReinitializeFSM")


def _maintenance(machine: Machine, facts: Facts) -> Step:
    return Step("ReinitializeFSM")


def _unknown_local_vm(machine: Machine, facts: Facts) -> Step:
    return Step("ReinitializeFSM", 0)


def _reinitialize(machine: Machine, facts: Facts) -> Step:
    return Step("EngineStarting", 0) if _vm(facts) == "up" else Step("EngineDown")


def _engine_down(machine: Machine, facts: Facts) -> Step:
    best, best_id = facts.best_engine()
    if best["vm"] == "up":
        return Step("EngineStarting", 0) if best_id == facts.own_id else Step("EngineDown")
    if facts.span < ALIVE:
        return Step("EngineDown")
    remote = facts.best_remote_score()
    if remote is None or remote <= machine.score:
        return Step("EngineStart", 0)
    return Step("EngineDown")


def _engine_start(machine: Machine, facts: Facts) -> Step:
    return Step("EngineStarting", WAIT, START, "EngineDown")


def _engine_starting(machine: Machine, facts: Facts) -> Step:
    vm = _vm(facts)
    if vm == "up":
        return Step("EngineUp" if _word(facts, "health") == "good" else "EngineStarting")
    # "down" is taken for a race that another host has won, also while our own VM is still coming up.
    return Step("EngineForceStop", 0) if vm == "down" else Step("EngineMaybeAway", 0)


def _engine_up(machine: Machine, facts: Facts) -> Step:
    vm = _vm(facts)
    if vm == "down":
        return Step("EngineMaybeAway")
    if vm == "down_unexpected":
        return Step("EngineUnexpectedlyDown")
    best, best_id = facts.best_engine()
    if best["vm"] != "up":
        return Step("EngineMaybeAway", 0)
    remote = facts.best_remote_score()
    # A remote slot alone stops the VM that runs here.
    if best_id != facts.own_id or (remote is not None and remote >= machine.score + THRESHOLD):
        return Step("EngineStop")
    return Step("EngineUpBadHealth" if _word(facts, "health") == "bad" else "EngineUp")


def _engine_stop(machine: Machine, facts: Facts) -> Step:
    if _vm(facts) != "up":
        return Step("EngineDown")
    if _word(facts, "detail") == "Paused":
        return Step("EngineForceStop", 0)
    if machine.timer is None:
        return Step("EngineStop", WAIT, STOP, "ReinitializeFSM")
    return Step("EngineStop")


def _engine_force_stop(machine: Machine, facts: Facts) -> Step:
    return Step("EngineDown", WAIT, FORCE_STOP, "ReinitializeFSM")


def _engine_maybe_away(machine: Machine, facts: Facts) -> Step:
    vm = _vm(facts)
    if vm == "down":
        return Step("EngineDown")
    if vm == "down_unexpected":
        return Step("EngineUnexpectedlyDown")
    if vm == "up":
        return Step("EngineUp")
    best, _ = facts.best_engine()
    return Step("EngineDown" if best["vm"] == "up" else "EngineMaybeAway")


def _engine_unexpectedly_down(machine: Machine, facts: Facts) -> Step:
    best, best_id = facts.best_engine()
    return Step("EngineUp" if best["vm"] == "up" and best_id == facts.own_id else "EngineUnexpectedlyDown")


_BODIES: Mapping[str, Callable[[Machine, Facts], Step]] = {
    "StartState": _start_state,
    "ReinitializeFSM": _reinitialize,
    "GlobalMaintenance": _maintenance,
    "LocalMaintenance": _maintenance,
    "UnknownLocalVmState": _unknown_local_vm,
    "EngineDown": _engine_down,
    "EngineStart": _engine_start,
    "EngineStarting": _engine_starting,
    "EngineUp": _engine_up,
    "EngineUpBadHealth": _engine_up,
    "EngineStop": _engine_stop,
    "EngineForceStop": _engine_force_stop,
    "EngineMaybeAway": _engine_maybe_away,
    "EngineUnexpectedlyDown": _engine_unexpectedly_down,
}
