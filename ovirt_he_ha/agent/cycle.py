"""One cycle: collect, decide, act, publish. The daemon's loop and the simulator call the same function."""

import logging
from dataclasses import dataclass, replace
from typing import Callable, Mapping, Optional, Protocol

from ovirt_he_ha.agent.collect import Collector
from ovirt_he_ha.agent.publish import Publisher
from ovirt_he_ha.core import states
from ovirt_he_ha.core.model import Action, ActionKind, ActionReport, Carried, Decision, Fence, Snapshot
from ovirt_he_ha.core.timers import Timers

log = logging.getLogger(__name__)


class Actions(Protocol):
    def order(self, action: Action) -> bool: ...

    def taken(self, report: Optional[ActionReport]) -> None: ...

    def abort_migration(self) -> None: ...


class Fencing(Protocol):
    def order(self, fence: Optional[Fence]) -> None: ...


class Recording(Protocol):
    def record(self, snapshot: Snapshot, decision: Decision, timers: Timers, raw: Mapping[int, bytes]) -> None: ...


class Noting(Protocol):
    def note(self, snapshot: Snapshot, decision: Decision) -> None: ...


@dataclass
class Cycle:
    """The parts of one host's agent, and what one cycle hands to the next."""

    collector: Collector
    actions: Actions
    fencer: Fencing
    publisher: Publisher
    save: Callable[[Carried], None]
    timers: Timers
    carried: Carried
    decided: Optional[Decision] = None
    before: Optional[Snapshot] = None
    recorder: Optional[Recording] = None
    ledger: Optional[Noting] = None
    meter: Optional[Noting] = None

    def run_one_cycle(self, stopping: bool = False) -> Decision:
        """Collect, decide, act, publish. Raises BrokerError when the broker cannot be asked; then nothing was decided
        or done."""
        snapshot = self.collector.collect(self.carried, stopping)
        decision = states.decide(snapshot, self.timers)
        self.before, self.decided = snapshot, decision
        self.carried = decision.carried
        self.fencer.order(decision.fence)
        self.actions.taken(snapshot.report)
        # before the action: a start that is not accounted for would be repeated without back-off
        self.save(decision.carried)
        if decision.abort_migration:
            self.actions.abort_migration()
        if decision.action is not None and not stopping:
            self.actions.order(decision.action)
        # After what acts, before what may raise.
        if self.recorder is not None:
            self.recorder.record(snapshot, decision, self.timers, self.collector.raw_slots)
        for noting in (self.ledger, self.meter):
            if noting is not None:
                noting.note(snapshot, decision)
        self.publisher.publish(snapshot, decision)
        return decision

    def objection_to_start(self, collect: Callable[[Carried], Snapshot]) -> str:
        """Asked by the action worker in the instant before create: would the same policy still start the VM now?

        Everything is looked at anew (maintenance, score, rank, lease, peers); the state is the one from which the
        start was decided. Returns an empty text, or the reason against it.
        """
        before = self.before
        if before is None:
            return "no decision yet"
        carried = replace(
            before.carried,
            seen=self.carried.seen,
            startable_since=self.carried.startable_since,
            no_peer_since=self.carried.no_peer_since,
        )
        decision = states.decide(replace(collect(carried), report=None), self.timers)
        if decision.action is not None and decision.action.kind is ActionKind.START:
            return ""
        return ", ".join(reason.code for reason in decision.reasons) or decision.state.value
