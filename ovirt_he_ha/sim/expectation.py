"""What a scenario expects of its world, as data. Violations of the invariants are expected by no scenario of the
product; ``violation`` is for worlds that are broken on purpose."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.core.model import Record, State
from ovirt_he_ha.core.reasons import REASONS, from_record
from ovirt_he_ha.core.slot import decode
from ovirt_he_ha.core.timers import announced_bounds
from ovirt_he_ha.sim.clock import SECOND, ns, stamp
from ovirt_he_ha.sim.invariants import RULES

if TYPE_CHECKING:
    from ovirt_he_ha.sim.world import World

ROOM = 5.0  # seconds for the start itself, beyond what is announced
STATES = tuple(state.value for state in State)
BOUNDS = tuple(sorted(announced_bounds()))
MOMENTS = ("published", "explains")  # judged when they happen, not at the end
ORDERS = ("start", "stop", "power-off", "migrate")

Judge = Callable[["World", Mapping[str, Any]], str]


@dataclass(frozen=True)
class Field:
    """One key of an expectation. ``kind``: number, host, word (of ``words``) or text; ``needed`` False: may be left
    out."""

    kind: str
    needed: bool = True
    words: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Expectation:
    """``values`` have been checked against the fields of ``what``."""

    what: str
    values: Mapping[str, Any]

    def prepare(self, world: "World") -> None:
        if self.what in MOMENTS:
            moment, judge = ns(self.values["at"]), EXPECTATIONS[self.what].judge
            world.timeline.at(moment, lambda: world.seen.update({id(self): judge(world, self.values)}))

    def complaint(self, world: "World") -> str:
        """Empty, or what was found instead."""
        if self.what in MOMENTS:
            return str(world.seen.get(id(self), "the run ended before"))
        return EXPECTATIONS[self.what].judge(world, self.values)


@dataclass(frozen=True)
class Template:
    fields: Mapping[str, Field]
    judge: Judge
    meaning: str


EXPECTATIONS: Dict[str, Template] = {}


def expectation(name: str, **fields: Field) -> Callable[[Judge], Judge]:
    def keep(judge: Judge) -> Judge:
        EXPECTATIONS[name] = Template(fields, judge, " ".join((judge.__doc__ or "").split()))
        return judge

    return keep


NUMBER, HOST, REASON = Field("number"), Field("host"), Field("word", words=tuple(REASONS))
MAYBE_NUMBER, MAYBE_HOST = Field("number", needed=False), Field("host", needed=False)


def _host_running(world: "World", at: int) -> int:
    """Which host ran the VM at that moment; 0: none."""
    found = 0
    for when, host, on in world.runs:
        if when > at:
            break
        found = host if on else (0 if found == host else found)
    return found


def _healthy_at(world: "World", at: int) -> bool:
    found = False
    for when, healthy in world.health:
        if when > at:
            break
        found = healthy
    return found


def _first_healthy(world: "World", after: int) -> Optional[int]:
    """When users had the engine again, after it was away: the first good look at or after that moment that follows a
    bad one, or ``after`` itself when it never went away."""
    later = [(when, healthy) for when, healthy in world.health if when > after]
    if not later:
        return after if _healthy_at(world, after) else None
    if _healthy_at(world, after):
        later = later[1:]
    return next((when for when, healthy in later if healthy), None)


@expectation("healthy", at=NUMBER, on=MAYBE_HOST, not_on=MAYBE_HOST)
def _healthy(world: "World", values: Mapping[str, Any]) -> str:
    """The page is good at that second (and the VM on, or not on, that host)."""
    at = ns(values["at"])
    if not _healthy_at(world, at):
        return "it was not"
    host = _host_running(world, at)
    if values.get("on", host) != host or values.get("not_on") == host:
        return f"it ran on host{host}"
    return ""


@expectation("away", at=NUMBER)
def _away(world: "World", values: Mapping[str, Any]) -> str:
    """The engine is not there at that second."""
    return "it was" if _healthy_at(world, ns(values["at"])) else ""


@expectation("back", after=NUMBER, seconds=MAYBE_NUMBER, bound=Field("word", False, BOUNDS), on=MAYBE_HOST)
def _back(world: "World", values: Mapping[str, Any]) -> str:
    """After that second the engine goes away (or is away already) and comes back, within so many seconds, or within the
    bound that the product announces for that fault and 5 s; the guest's own boot is not counted."""
    bounds = announced_bounds(world.disk.io_timeout, world.disk.watchdog)
    limit = values["seconds"] if "seconds" in values else bounds[values["bound"]] + ROOM
    after = ns(values["after"])
    if _healthy_at(world, after) and not any(when >= after and not healthy for when, healthy in world.health):
        return "it never went away"
    back = _first_healthy(world, after)
    if back is None:
        return "it did not come back"
    took = (back - after) / SECOND - world.spec.guest_boot
    if took > limit:
        return f"it took {took:.1f} s, the limit is {limit:g} s"
    host = _host_running(world, back)
    return "" if values.get("on", host) == host else f"it came back on host{host}"


@expectation("untouched", after=NUMBER, until=NUMBER)
def _untouched(world: "World", values: Mapping[str, Any]) -> str:
    """Between these seconds the page is good all the time, in one place."""
    after, until = ns(values["after"]), ns(values["until"])
    if not _healthy_at(world, after):
        return f"it was not healthy at {stamp(after)}"
    gone = next((when for when, healthy in world.health if after < when <= until and not healthy), None)
    if gone is not None:
        return f"it was away at {stamp(gone)}"
    moved = next((when for when, _, _ in world.runs if after < when <= until), None)
    return "" if moved is None else f"it was started, moved or stopped at {stamp(moved)}"


@expectation("silence", after=NUMBER, until=NUMBER, seconds=NUMBER)
def _silence(world: "World", values: Mapping[str, Any]) -> str:
    """Between these seconds the page is never bad for longer than so many."""
    after, until, worst = ns(values["after"]), ns(values["until"]), 0
    since = None if _healthy_at(world, after) else after
    for when, healthy in [*((w, h) for w, h in world.health if after < w <= until), (until, True)]:
        if not healthy and since is None:
            since = when
        elif healthy and since is not None:
            worst, since = max(worst, when - since), None
    return f"{stamp(worst)} s" if worst > ns(values["seconds"]) else ""


@expectation("state", host=HOST, state=Field("word", words=STATES), by=MAYBE_NUMBER, after=MAYBE_NUMBER)
def _state(world: "World", values: Mapping[str, Any]) -> str:
    """That host's agent is in that state at some moment between these seconds."""
    after, by = ns(values.get("after", 0)), ns(values.get("by", 1e9))
    spans = world.state_spans.get(values["host"], [])
    ends = [when for when, _ in spans[1:]] + [world.timeline.now]
    for (began, state), end in zip(spans, ends):
        if state == values["state"] and began <= by and end >= after:
            return ""
    return "it was in " + (", ".join(dict.fromkeys(state for _, state in spans)) or "none")


@expectation("reason", host=HOST, reason=REASON, by=MAYBE_NUMBER, after=MAYBE_NUMBER)
def _reason(world: "World", values: Mapping[str, Any]) -> str:
    """A decision of that host names that reason, for the first time by then, or still after that."""
    found = world.reasons.get((values["host"], values["reason"]))
    if found is None:
        return "never"
    if found[0] > ns(values.get("by", 1e9)):
        return f"first at {stamp(found[0])}"
    return f"last at {stamp(found[1])}" if found[1] < ns(values.get("after", 0)) else ""


@expectation("no-state", host=HOST, state=Field("word", words=STATES), by=MAYBE_NUMBER, after=MAYBE_NUMBER)
def _no_state(world: "World", values: Mapping[str, Any]) -> str:
    """That host's agent is never in that state between these seconds."""
    return "it was" if not _state(world, values) else ""


@expectation("no-reason", host=HOST, reason=REASON, by=MAYBE_NUMBER)
def _no_reason(world: "World", values: Mapping[str, Any]) -> str:
    """No decision of that host names that reason, at least not by then."""
    found = world.reasons.get((values["host"], values["reason"]))
    return "" if found is None or found[0] > ns(values.get("by", 1e9)) else f"first at {stamp(found[0])}"


@expectation(
    "orders", order=Field("word", words=ORDERS), host=MAYBE_HOST, at_least=MAYBE_NUMBER, at_most=MAYBE_NUMBER,
    after=MAYBE_NUMBER, until=MAYBE_NUMBER,
)  # fmt: skip
def _orders(world: "World", values: Mapping[str, Any]) -> str:
    """How often (that host's) agent orders it between these seconds."""
    after, until = ns(values.get("after", 0)), ns(values.get("until", 1e9))
    count = sum(
        1
        for when, host, order in world.orders
        if after <= when <= until and order == values["order"] and values.get("host", host) == host
    )
    fits = values.get("at_least", 0) <= count <= values.get("at_most", 1e9)
    return "" if fits else f"{count} times"


@expectation("runs", at_most=NUMBER, at_least=MAYBE_NUMBER)
def _runs(world: "World", values: Mapping[str, Any]) -> str:
    """How often a copy's CPUs began to run, moves included, the first copy not."""
    count = sum(1 for _, _, on in world.runs if on) - (1 if world.spec.warm and world.spec.engine_on else 0)
    return "" if values.get("at_least", 0) <= count <= values["at_most"] else f"{count} times"


@expectation("process-gone", host=HOST, after=NUMBER, seconds=NUMBER)
def _process_gone(world: "World", values: Mapping[str, Any]) -> str:
    """The VM's process on that host ends within so many seconds after that moment."""
    after = ns(values["after"])
    ends = [when for when, host, on in world.runs if host == values["host"] and not on and when >= after]
    if not ends:
        return "it never did"
    return "" if ends[0] - after <= ns(values["seconds"]) else f"after {stamp(ends[0] - after)} s"


@expectation("published", host=HOST, key=Field("text"), value=Field("text"), at=NUMBER)
def _published(world: "World", values: Mapping[str, Any]) -> str:
    """That host's slot says so at that second; an empty value: it does not name the key."""
    host = world.hosts[values["host"]]
    found = decode(host.conf_id, world.volume.get(host.conf_id))
    if not isinstance(found, Record):
        return f"the slot is {found}"
    fixed = {
        "score": str(found.score),
        "maintenance": str(found.maintenance),
        "stopped": str(found.stopped),
        "vm": "" if found.engine is None else found.engine.vm.value,
        "detail": "" if found.engine is None else found.engine.detail,
    }
    text = fixed.get(values["key"], found.get(values["key"]))
    return "" if text == values["value"] else f"it says {text!r}"


@expectation("explains", host=HOST, reason=REASON, at=NUMBER)
def _explains(world: "World", values: Mapping[str, Any]) -> str:
    """An administrator who looks at that second reads that reason in that host's slot."""
    found = decode(world.hosts[values["host"]].conf_id, world.volume.get(world.hosts[values["host"]].conf_id))
    if not isinstance(found, Record):
        return f"the slot is {found}"
    codes = [why.code for why in from_record(found, 0.0)[0]]
    return "" if values["reason"] in codes else "it says " + (", ".join(codes) or "nothing")


@expectation("violation", rule=Field("word", words=tuple(RULES)))
def _violation(world: "World", values: Mapping[str, Any]) -> str:
    """This rule is broken: for worlds that are broken on purpose."""
    found: List[str] = [violation.rule for violation in world.invariants.violations]
    return "" if values["rule"] in found else "it was kept"
