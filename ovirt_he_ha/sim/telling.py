"""What happens in a world, told to an administrator: who does what, when, and why in the product's own reasons."""

import re
from dataclasses import dataclass
from typing import Callable, Dict, List, Match, Optional, Tuple, Union

from ovirt_he_ha.core.model import Action, ActionKind, Decision, Reason
from ovirt_he_ha.core.reasons import describe

MOST_REASONS = 2  # of a line; the first are the most important ones
# The values that make a reason another one; the others are counters and clocks.
_TELLING = ("flag", "host", "problem", "zero", "owner")
_NUMBER = re.compile("[0-9]+")
_ORDERS = {
    ActionKind.START: "orders: start the VM",
    ActionKind.STOP: "orders: press the VM's power button",
    ActionKind.POWER_OFF: "orders: power the VM off",
    ActionKind.MIGRATE: "orders: migrate the VM to host {target}",
}


@dataclass(frozen=True)
class Event:
    """``at`` in nanoseconds of the world; ``host`` 0: the cluster. ``what``: ``fault``, ``state``, ``order``, ``vm``,
    ``host``, ``page``, ``violation``."""

    at: int
    host: int
    what: str
    text: str
    reasons: Tuple[Reason, ...] = ()


Words = Union[str, Callable[["Match[str]"], str]]

# Notes of a world: pattern, kind of event, words. An empty text is not told.
_NOTES: Tuple[Tuple[str, str, Words], ...] = (
    (r"power on", "host", "is switched on and boots"),
    (r"reset by the watchdog.*", "host", "is reset by its watchdog"),
    (r"reset.*", "host", "is reset"),
    (r"VM process \d+ runs", "vm", "the VM's processors run, the appliance boots"),
    (r"VM process \d+ ended \((.*)\)", "vm", lambda found: f"the VM's process has ended ({found.group(1)})"),
    (r"VM process \d+ paused \((.*)\)", "vm", lambda found: f"the VM is paused ({found.group(1)})"),
    (r"sanlock: lockspace lost.*", "host", "sanlock gives the lockspace up: its renewals failed"),
    (r"sanlock: (.*) joined.*", "host", lambda found: f"sanlock has joined the lockspace {found.group(1)}"),
    (r"fence: (.*)", "vm", lambda found: f"kills the VM's process: {found.group(1)}"),
    (r"migrate: ok.*", "vm", "the VM has been migrated"),
    (r"(start|stop|power-off|migrate): (?!ok)(.*)", "vm", lambda found: f"{found.group(1)}: {found.group(2)}"),
    (r"upstream agent: (.*)", "state", lambda found: f"oVirt's agent: {found.group(1)}"),
    (r"upstream agent orders: (.*)", "order", lambda found: f"oVirt's agent orders: {found.group(1)}"),
    (r"(agent: .*)", "host", lambda found: found.group(1)),
    (r"VIOLATION (.*)", "violation", lambda found: f"A RULE IS BROKEN: {found.group(1)}"),
)


class Telling:
    """``begin``: nothing before that moment is told, but it is known."""

    def __init__(self) -> None:
        self.begin: Optional[int] = None
        self.events: List[Event] = []
        self._said: Dict[int, Tuple[object, ...]] = {}

    def add(self, at: int, host: int, what: str, text: str, reasons: Tuple[Reason, ...] = ()) -> None:
        if self.begin is not None and at >= self.begin:
            self.events.append(Event(at, host, what, text, reasons))

    def story(self) -> Tuple[Event, ...]:
        """Of hosts that only look on, what changes is told, and not each further reason for the same."""
        acting = {event.host for event in self.events if event.what != "state"}
        said: Dict[int, object] = {}
        before: Dict[int, str] = {}
        told = []
        for event in self.events:
            again, before[event.host] = before.get(event.host), _NUMBER.sub("", event.text)
            if event.what in ("vm", "host") and again == before[event.host]:
                continue  # it does so again and again, until it succeeds
            if event.what == "state" and event.host not in acting:
                first = tuple(essence(reason) for reason in event.reasons[:1])
                if said.get(event.host) == (event.text.partition(":")[0], first):
                    continue
                said[event.host] = (event.text.partition(":")[0], first)
            told.append(event)
        return tuple(told)

    def note(self, at: int, host: int, text: str) -> None:
        for pattern, what, words in _NOTES:
            found = re.fullmatch(pattern, text, re.DOTALL)
            if found is not None:
                self.add(at, host, what, words if isinstance(words, str) else words(found))
                return

    def decided(self, at: int, host: int, decision: Decision) -> None:
        reasons = decision.reasons[:MOST_REASONS]
        key = (decision.state, *(essence(reason) for reason in reasons))
        if self._said.get(host) == key:
            return
        self._said[host] = key
        why = "; ".join(describe(reason) for reason in reasons)
        self.add(at, host, "state", f"{decision.state.value}: {why}" if why else decision.state.value, reasons)

    def ordered(self, at: int, host: int, action: Action) -> None:
        self.add(at, host, "order", _ORDERS[action.kind].format(target=action.target_id))


def essence(reason: Reason) -> Tuple[str, ...]:
    """What makes it this reason and no other: its counters and clocks do not."""
    return (reason.code, *(reason.values[key] for key in _TELLING if key in reason.values))
