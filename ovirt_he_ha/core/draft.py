"""A decision in the making. Lives only inside one call of ``decide``; what leaves it is frozen.

Everything that acts goes through :meth:`Draft.act`, so that the rules which forbid every action stand in one place.
"""

from dataclasses import replace
from types import MappingProxyType
from typing import Any, List, Mapping, Optional

from ovirt_he_ha.core import notes, reasons
from ovirt_he_ha.core.model import Action, Carried, Countdown, Fence, Reason, State
from ovirt_he_ha.core.situation import Situation


def _are_kept(before: object, changes: Mapping[str, object]) -> bool:
    """Most cycles change nothing of most of it, and a copy of 20 fields for that took a tenth of a decision."""
    return not [name for name, value in changes.items() if getattr(before, name) is not value]


class Draft:
    """``phase`` and ``maintenance_state`` are what finer lines of the slot say; ``problems`` are codes for its
    ``problem=``."""

    def __init__(self, sit: Situation) -> None:
        self.sit = sit
        self.carried: Carried = sit.snapshot.carried
        self.state: State = self.carried.state
        self.action: Optional[Action] = None
        self.fence: Optional[Fence] = None
        self.abort_migration = False
        self.reasons: List[Reason] = []
        self.countdowns: List[Countdown] = []
        self.problems: List[str] = []
        self.phase = ""
        self.maintenance_state = ""

    # --- what outlives the cycle ------------------------------------------------------------------------------

    def keep(self, **changes: Any) -> None:
        if not _are_kept(self.carried, changes):
            self.carried = replace(self.carried, **changes)

    def spend(self, **changes: Any) -> None:
        if not _are_kept(self.carried.budgets, changes):
            self.keep(budgets=replace(self.carried.budgets, **changes))

    def note(self, name: str) -> Optional[float]:
        return self.carried.notes.get(name)

    def put_note(self, name: str, moment: float) -> None:
        self.keep(notes=MappingProxyType({**self.carried.notes, name: moment}))

    def drop_notes(self, *names: str) -> None:
        if self.carried.notes.keys().isdisjoint(names):
            return
        kept = {name: moment for name, moment in self.carried.notes.items() if name not in names}
        self.keep(notes=MappingProxyType(kept))

    def enter(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self.keep(state=state, entered_at=self.sit.now)

    def start_failed(self, code: str, detail: str = "") -> None:
        """One more failed start: back off, 10 s doubling to 600 s, and the score's retry penalty."""
        failures = self.carried.budgets.start_failures + 1
        self.spend(start_failures=failures, next_start_at=self.sit.now + self.sit.timers.start_wait(failures))
        # What was held back for a restart here is to be read now: it did not happen.
        self.keep(own_start_at=None, start_problem=code, start_detail=detail, hold_down_until=None)
        self.drop_notes(notes.STARTED)

    # --- what is said -------------------------------------------------------------------------------------------

    def because(self, code: str, **values: object) -> None:
        self.say(reasons.reason(code, **values))

    def say(self, why: Reason) -> None:
        if why not in self.reasons:
            self.reasons.append(why)

    def problem(self, code: str, **values: object) -> None:
        """A reason that is also a fault of this host, for ``problem=``."""
        self.because(code, **values)
        if code not in self.problems:
            self.problems.append(code)

    def ahead(self, event: str, at: float, **values: object) -> None:
        if self.sit.now < at < float("inf"):
            self.countdowns.append(reasons.countdown(event, at, **values))

    def ahead_of_action(self) -> None:
        """The moment at which the action under way is given up."""
        running = self.sit.running
        if running is not None:
            self.ahead("action-deadline", running.started_at + running.action.deadline)

    # --- what is done -------------------------------------------------------------------------------------------

    @property
    def may_act(self) -> bool:
        """Nothing forbids actions as such: no maintenance of the cluster (an unknown one forbids as well), nothing
        under way, no kill, a known VM, an agent that goes on."""
        sit = self.sit
        forbidden = (
            sit.hands_off,
            sit.facts is None,
            sit.running is not None,
            sit.snapshot.stopping,
            bool(sit.snapshot.fencing),
            self.fence is not None,
            self.action is not None,
        )
        return not any(forbidden)

    def act(self, action: Action) -> bool:
        """Order the one action of this decision. False when actions are forbidden; then nothing is to be noted as
        asked."""
        if not self.may_act:
            self._say_action_running()
            return False
        self.action = action
        return True

    def _say_action_running(self) -> None:
        """One action at a time: without this an order that only waits for another one would wait without a word."""
        running = self.sit.running
        if running is None:
            return
        seconds = f"{max(0.0, self.sit.now - running.started_at):.0f}"
        self.because("action-running", action=running.action.kind.value, seconds=seconds)
        self.ahead_of_action()
