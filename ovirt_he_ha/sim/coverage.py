"""What of the policy a set of runs has shown: states, transitions, reasons, verdicts; and what it has not.

The universe is the code's own tables (enums, reasons, countdowns) and, for transitions, :data:`TRANSITIONS` below:
every link that a decision can make, those that happen within one step included. A link that is seen and is not in that
table is an error of the table, and is said as well.
"""

import ast
import inspect
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Dict, FrozenSet, Iterator, List, Mapping, Optional, Tuple

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.core import fitness, guards, moving, publishing, reasons, running, score, starting, stopping
from ovirt_he_ha.core.draft import Draft
from ovirt_he_ha.core.model import (
    ActionKind,
    Decision,
    Exit,
    HostLease,
    Invalid,
    LeaseFacts,
    LockspaceState,
    Outcome,
    State,
)
from ovirt_he_ha.sim.faults import KINDS
from ovirt_he_ha.sim.host import Host
from ovirt_he_ha.sim.run import Result, Tweak, run
from ovirt_he_ha.sim.scenario import Scenario
from ovirt_he_ha.sim.world import World

_S = State
_IDLE = (_S.REINITIALIZE, _S.ENGINE_DOWN, _S.ENGINE_START, _S.ENGINE_MAYBE_AWAY, _S.ENGINE_UNEXPECTEDLY_DOWN)
_HERE = (_S.ENGINE_STARTING, _S.ENGINE_UP, _S.ENGINE_UP_BAD_HEALTH)
_STOPPING = (_S.ENGINE_STOP, _S.ENGINE_FORCE_STOP)
_LEFT = (_S.ENGINE_DOWN, _S.ENGINE_UNEXPECTEDLY_DOWN, _S.ENGINE_MAYBE_AWAY)
_RESTING = (_S.GLOBAL_MAINTENANCE, _S.LOCAL_MAINTENANCE)

Link = Tuple[State, State]


def _links() -> Iterator[Tuple[State, Tuple[State, ...]]]:
    # The guards: whatever the state is.
    for state in (*_IDLE, *_HERE, *_STOPPING):
        yield state, (_S.GLOBAL_MAINTENANCE, _S.UNKNOWN_LOCAL_VM, _S.AGENT_STOPPED)
    yield _S.UNKNOWN_LOCAL_VM, (_S.GLOBAL_MAINTENANCE, _S.LOCAL_MAINTENANCE, _S.AGENT_STOPPED, _S.REINITIALIZE)
    yield _S.GLOBAL_MAINTENANCE, (_S.REINITIALIZE, _S.AGENT_STOPPED)
    yield _S.LOCAL_MAINTENANCE, (_S.GLOBAL_MAINTENANCE, _S.REINITIALIZE, _S.ENGINE_STARTING, _S.AGENT_STOPPED)
    for state in (*_IDLE, _S.ENGINE_STARTING):
        yield state, (_S.LOCAL_MAINTENANCE,)
    # The end of the copy that was here, wherever that is noticed.
    for state in (*_HERE, _S.UNKNOWN_LOCAL_VM):
        yield state, _LEFT
    # The bodies.
    yield _S.START, (_S.REINITIALIZE, _S.AGENT_STOPPED)
    yield _S.REINITIALIZE, (_S.ENGINE_STARTING, _S.ENGINE_DOWN)
    yield _S.ENGINE_DOWN, (_S.ENGINE_STARTING, _S.ENGINE_START, _S.ENGINE_UNEXPECTEDLY_DOWN)
    yield _S.ENGINE_START, (_S.ENGINE_STARTING, _S.ENGINE_DOWN)
    yield _S.ENGINE_STARTING, (_S.ENGINE_UP, _S.ENGINE_STOP)
    yield _S.ENGINE_UP, (_S.ENGINE_UP_BAD_HEALTH, _S.ENGINE_STOP)
    yield _S.ENGINE_UP_BAD_HEALTH, (_S.ENGINE_UP, _S.ENGINE_STOP)
    yield _S.ENGINE_STOP, (_S.ENGINE_FORCE_STOP,)
    for state in _STOPPING:
        yield state, (_S.ENGINE_DOWN, _S.ENGINE_UNEXPECTEDLY_DOWN, _S.REINITIALIZE)
    yield _S.ENGINE_MAYBE_AWAY, (_S.ENGINE_STARTING, _S.ENGINE_DOWN, _S.ENGINE_UNEXPECTEDLY_DOWN)
    yield _S.ENGINE_UNEXPECTEDLY_DOWN, (_S.ENGINE_STARTING, _S.ENGINE_DOWN)


TRANSITIONS: FrozenSet[Link] = frozenset((before, after) for before, all_ in _links() for after in all_)


def _codes(modules: Tuple[ModuleType, ...], method: str) -> Tuple[str, ...]:
    """The literal first arguments of every call of ``.method(...)`` in these modules."""
    found = set()
    for module in modules:
        for node in ast.walk(ast.parse(Path(inspect.getfile(module)).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(first.value)
    return tuple(sorted(found))


def _text(link: Link) -> str:
    return f"{link[0].value} -> {link[1].value}"


_GUARD_CODES = tuple(code for code in reasons.REASONS if code.startswith("guard-"))
_GUARD_STATES = ("blind", "guarded", "killing", "starting", "suspended", "threatened", "unverified")
_ZEROES = (
    *fitness._ZERO_IN_STATE.values(), "definition", "lease-held", "lease-unset", "local-maintenance-unknown",
    "lockspace", "reset-pending", score.TOO_MANY_RETRIES, "too-new", "unfenced",
)  # fmt: skip
_PENALTIES = (score.NETWORK, score.BRIDGE, score.CPU_LOAD, score.MEMORY, score.RETRIES)
_PROBLEMS = _codes((guards, moving, publishing, running, starting, stopping), "problem")

# What there is, by name: every item is either seen or not.
UNIVERSE: Mapping[str, Tuple[str, ...]] = {
    "state": tuple(state.value for state in State),
    "transition": tuple(sorted(_text(link) for link in TRANSITIONS)),
    "reason": tuple(reasons.REASONS),
    "countdown": tuple(reasons.COUNTDOWNS),
    "problem": tuple(sorted({*_PROBLEMS, *_GUARD_CODES})),
    "action": tuple(f"{kind.value}: {outcome.value}" for kind in ActionKind for outcome in Outcome),
    "fence": ("paused", *_GUARD_CODES),
    "guard": _GUARD_STATES,
    "zero": tuple(sorted(set(_ZEROES))),
    "penalty": _PENALTIES,
    "exit": tuple(each.value for each in Exit),
    "lease": tuple(each.value for each in HostLease),
    "lockspace": tuple(each.value for each in LockspaceState),
    "fault": tuple(sorted(KINDS)),
}

_NO_FILE = "no state file and no configuration file is read in a simulated world"
_NO_ANSWER = "libvirt gives no such answer to this order"
_CLEAR = "the simulated sanlock always answers in the language that is expected"

# What no run shows, and why.
UNSHOWN: Mapping[str, str] = {
    "state StartState": "left within the first step",
    "reason lease-unset": _NO_FILE,
    "zero lease-unset": _NO_FILE,
    "reason state-file": _NO_FILE,
    "problem state-file": _NO_FILE,
    "reason ledger": _NO_FILE,
    "problem ledger": _NO_FILE,
    "reason start-refused": "a VM that is here already is adopted before a start could be refused for it",
    "action start: refused": "a VM that is here already is adopted before a start could be refused for it",
    "reason health-unknown": "the engine's monitor lets the page's last verdict stand while there is none",
    "reason guard-blind": _CLEAR,
    "problem guard-blind": _CLEAR,
    "fence guard-blind": "never ends a copy",
    "guard blind": _CLEAR,
    "problem no-publish": "the slot in which it would stand is not written",
    "problem guard-unknown-process": "the copy is gone before the next slot is written",
    "action stop: lost-race": _NO_ANSWER,
    "action stop: refused": _NO_ANSWER,
    "action power-off: lost-race": _NO_ANSWER,
    "action power-off: refused": _NO_ANSWER,
    "action power-off: failed": _NO_ANSWER,
    "action migrate: lost-race": _NO_ANSWER,
    "action migrate: refused": "only a VM that runs here is sent away",
    "lease free": "sanlock's list leaves a host out that has left; asked for it by its number, it says so",
    "lockspace error": "a join that fails is begun again at once, and shown as joining",
}


class Coverage:
    """``seen``: (what, item) -> how often, over all runs that it watched."""

    def __init__(self) -> None:
        self.seen: Dict[Tuple[str, str], int] = {}
        self._trail: List[Link] = []

    def note(self, what: str, item: str) -> None:
        self.seen[what, item] = self.seen.get((what, item), 0) + 1

    def add(self, seen: Mapping[Tuple[str, str], int]) -> None:
        """What another one has seen."""
        for key, times in seen.items():
            self.seen[key] = self.seen.get(key, 0) + times

    # --- watching ----------------------------------------------------------------------------------------------------

    def tweak(self, world: World) -> None:
        """For ``run``: what this world's agents decide is noted."""
        tell = world.decided

        def decided(host: Host, cycle: Cycle, decision: Decision) -> None:
            self._decided(cycle, decision)
            tell(host, cycle, decision)

        world.decided = decided  # type: ignore[method-assign]

    @contextmanager
    def links(self) -> Iterator[None]:
        """While this lasts, every link of a decision is known, not only the state in which it ended."""
        begin, enter = Draft.__init__, Draft.enter

        def begun(draft: Draft, *args: object) -> None:
            self._trail = []
            begin(draft, *args)  # type: ignore[arg-type]

        def entered(draft: Draft, state: State) -> None:
            if state is not draft.state:
                self._trail.append((draft.state, state))
            enter(draft, state)

        Draft.__init__, Draft.enter = begun, entered  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            Draft.__init__, Draft.enter = begin, enter  # type: ignore[method-assign]

    def run(self, scenario: Scenario, seed: Optional[int] = None, also: Tweak = lambda world: None) -> Result:
        """As the function ``run``; ``also``: another tweak of the world."""
        for fault in scenario.faults:
            self.note("fault", fault.kind)

        def tweak(world: World) -> None:
            also(world)
            self.tweak(world)

        with self.links():
            return run(scenario, seed, tweak)

    def _decided(self, cycle: Cycle, decision: Decision) -> None:
        self.note("state", decision.state.value)
        for link in self._trail:
            self.note("transition", _text(link))
        self._trail = []
        for reason in decision.reasons:
            self.note("reason", reason.code)
        for countdown in decision.countdowns:
            self.note("countdown", countdown.event)
        self._score(decision)
        if decision.record is not None:
            for code in filter(None, decision.record.get("problem").split(",")):
                self.note("problem", code)
        if decision.fence is not None:
            self.note("fence", decision.fence.reason.partition(":")[0])
        self._snapshot(cycle)

    def _score(self, decision: Decision) -> None:
        if decision.score.zero_reason:
            self.note("zero", decision.score.zero_reason)
        for penalty in decision.score.penalties:
            if penalty.points:
                self.note("penalty", penalty.code)

    def _snapshot(self, cycle: Cycle) -> None:
        snapshot = cycle.before
        if snapshot is None:
            return
        report, guard, engine = snapshot.report, snapshot.guard, snapshot.monitors.engine.value
        if report is not None and report.outcome is not None:
            self.note("action", f"{report.action.kind.value}: {report.outcome.value}")
        if guard.state:
            self.note("guard", guard.state)
        if guard.state == "killing" and guard.reason is not None:
            self.note("fence", guard.reason.code)
        if engine is not None:
            self.note("exit", engine.last_exit.value)
        self._leases(snapshot.leases)
        for slot in snapshot.slots.values():
            if isinstance(slot, Invalid):
                self.note("slot", slot.reason)

    def _leases(self, leases: LeaseFacts) -> None:
        for flag in (leases.hosts.value or {}).values():
            self.note("lease", flag.value)
        for reading in (leases.lockspace, leases.whiteboard):
            self.note("lockspace", LockspaceState.UNKNOWN.value if reading.value is None else reading.value.value)

    # --- telling -----------------------------------------------------------------------------------------------------

    def missing(self) -> Tuple[Tuple[str, str], ...]:
        """What was not seen and is not known to be unshowable."""
        return tuple(
            (what, item)
            for what, items in UNIVERSE.items()
            for item in items
            if (what, item) not in self.seen and f"{what} {item}" not in UNSHOWN
        )

    def surplus(self) -> Tuple[Tuple[str, str], ...]:
        """What was seen although it is not in the tables, or is said to be unshowable."""
        return tuple(
            (what, item)
            for what, item in sorted(self.seen)
            if (what in UNIVERSE and item not in UNIVERSE[what]) or f"{what} {item}" in UNSHOWN
        )

    def lines(self) -> Iterator[str]:
        for what, items in UNIVERSE.items():
            known = [item for item in items if (what, item) in self.seen]
            yield f"{what}: {len(known)} of {len(items)}"
            for item in items:
                count = self.seen.get((what, item), 0)
                why = "" if count else f"  NOT SEEN {UNSHOWN.get(f'{what} {item}', '')}".rstrip()
                yield f"  {count:>8} {item}{why}"
        for what, item in self.surplus():
            yield f"not in the tables: {what} {item}"
