"""The answer to a what-if, for people and for programs."""

from typing import Any, Dict, List, Optional, Tuple

from ovirt_he_ha.config.what_if import ALL, AskedFault
from ovirt_he_ha.core.reasons import describe
from ovirt_he_ha.sim.clock import SECOND
from ovirt_he_ha.sim.live import DYING, MUTE, OFF, STOPPED, WORKS, LiveHost
from ovirt_he_ha.sim.telling import Event, essence
from ovirt_he_ha.sim.what_if import Answer, RunOf

PARTS = {
    "detection": "until a host knows",
    "lease": "until the VM's lease can be taken",
    "start": "until the VM's processors run",
    "boot": "boot of the appliance",
    "recovery": "until the page answers, without a start of the VM",
}
MANY = 6  # hosts; more are not told one by one
TOGETHER = 40  # seconds
_MODES = {
    STOPPED: "its agent is stopped",
    MUTE: "on, but says nothing",
    OFF: "off",
    DYING: "gone, and not yet dead for sanlock",
}


# --- for people -------------------------------------------------------------------------------------------------------


def text(answer: Answer) -> str:
    lines = ["The cluster now:"]
    lines += [f"    {line}" for line in _host_lines(answer)]
    lines += [f"    problem: {each}" for each in answer.cluster.problems]
    lines += ["", _question(answer), ""]
    lines += _verdict(answer)
    lines += ["", f"What happens, in seconds from now ({_which(answer)}):"]
    lines += [f"    {line}" for line in _story(answer)]
    if not answer.typical.events:
        lines.append("    nothing")
    lines += ["", *_certainty(answer)]
    return "\n".join(lines) + "\n"


def _host_lines(answer: Answer) -> List[str]:
    hosts = answer.cluster.hosts
    if len(hosts) <= MANY:
        return [_host_line(answer, host) for host in hosts]
    engine = answer.cluster.engine_on
    special = [host for host in hosts if host.id == engine or host.mode != WORKS or host.rests]
    lines = [_host_line(answer, host) for host in special]
    scores = [host.score for host in hosts if host not in special]
    if scores:
        between = f"{min(scores)}" if min(scores) == max(scores) else f"{min(scores)} to {max(scores)}"
        lines.append(f"{len(scores)} more, score {between}")
    return lines


def _host_line(answer: Answer, host: LiveHost) -> str:
    if host.mode == WORKS:
        words = [host.state or "oVirt's own agent", f"score {host.score}"]
        words += ["in maintenance"] if host.rests else []
    else:
        words = [_MODES[host.mode]]
    if host.id == answer.cluster.engine_on:
        words.append("has the engine VM")
    return f"{host.shown}: {', '.join(words)}"


def _question(answer: Answer) -> str:
    faults = answer.question.faults
    if not faults:
        return "If nothing fails:"
    return "If " + "; ".join(_asked(answer, fault) for fault in faults) + ":"


def _asked(answer: Answer, fault: AskedFault) -> str:
    value = f"={fault.host}" if fault.host and fault.host != ALL else ""
    if fault.name in ("storage-hang", "storage-error"):
        value = f"={fault.seconds:g}" + (f":{fault.host}" if fault.host != ALL else "")
    at = f" at {fault.at:g} s" if fault.at else ""
    lasts = f" for {fault.seconds:g} s" if fault.seconds is not None and not fault.name.startswith("storage") else ""
    return f"{fault.name}{value}{at}{lasts}"


def _verdict(answer: Answer) -> List[str]:
    best, typical, worst = (run.outage for run in (answer.best, answer.typical, answer.worst))
    back = sum(run.outage.back for run in answer.runs)
    lines = []
    if back < len(answer.runs):
        after = (answer.worst.ends - answer.worst.begins) / SECOND
        lines.append(
            f"THE ENGINE DOES NOT COME BACK in {_of(len(answer.runs) - back, answer)}, looked at for {after:.0f} s"
        )
    if back and worst.seconds == 0:
        lines.append(f"The health page answers all the time ({_of(len(answer.runs), answer)})")
    elif back:
        middle = f"predicted outage: {typical.seconds:.0f} s, " if typical.back else ""
        longest = max(run.outage.seconds for run in answer.runs if run.outage.back)
        lines.append(f"The health page does not answer: {middle}{best.seconds:.0f} to {longest:.0f} s in {_runs(back)}")
        lines += [f"    {line}" for line in _part_lines(answer)]
    if back:
        lines.append(f"Afterwards the engine is on {_places(answer)}")
    lines += _bound_lines(answer)
    lines += [f"A RULE IS BROKEN in the simulation, please report it: {each}" for each in answer.violations]
    return lines


def _of(count: int, answer: Answer) -> str:
    return f"{count} of {_runs(len(answer.runs))}"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _part_lines(answer: Answer) -> List[str]:
    lines = []
    for name, seconds in answer.typical.outage.parts.items():
        low, high = _range(answer, name)
        lines.append(f"{seconds:7.1f} s {PARTS[name]} ({low:.1f} to {high:.1f})")
    return lines


def _range(answer: Answer, name: str) -> Tuple[float, float]:
    found = [run.outage.parts[name] for run in answer.runs if name in run.outage.parts]
    return min(found), max(found)


def _places(answer: Answer) -> str:
    places: Dict[int, int] = {}
    for run in answer.runs:
        places[run.engine_on] = places.get(run.engine_on, 0) + 1
    known = {host.id: host.shown for host in answer.cluster.hosts}
    ranked = sorted(places.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) == 1:
        return known.get(ranked[0][0], "no host")
    return ", ".join(f"{known.get(place, 'no host')} ({_runs(count)})" for place, count in ranked)


def _bound_lines(answer: Answer) -> List[str]:
    if answer.bound is None:
        return ["The hosts announce no bound for this"] if answer.question.faults else []
    name, seconds = answer.bound
    longest = _without_boot(answer)
    if longest is None:
        return [f"Announced by the hosts ({name}): {seconds:.0f} s and the appliance's boot"]
    kept = f"kept in every run, at most {longest:.0f} s" if longest <= seconds else f"NOT KEPT, up to {longest:.0f} s"
    return [f"Announced by the hosts ({name}): {seconds:.0f} s without the appliance's boot; {kept}"]


def _without_boot(answer: Answer) -> Optional[float]:
    """The longest outage but for the boot; None if one has no end."""
    if not answer.comes_back:
        return None
    return max(run.outage.seconds - run.outage.parts.get("boot", 0.0) for run in answer.runs)


def _which(answer: Answer) -> str:
    return (
        f"the run in the middle, seed {answer.typical.seed}" if len(answer.runs) > 1 else f"seed {answer.typical.seed}"
    )


def _story(answer: Answer) -> List[str]:
    """In a large cluster the many who only look on are told together."""
    events = answer.typical.events
    together: Dict[Tuple[str, ...], List[Event]] = {}
    lines: List[Tuple[Event, List[Event]]] = []
    acting = {event.host for event in events if event.what != "state"}
    for event in events:
        group = [event]
        if len(answer.cluster.hosts) > MANY and event.host not in acting and event.reasons:
            key = (event.text.partition(":")[0], *essence(event.reasons[0]))
            known = together.get(key)
            if known is not None and event.at - known[0].at <= TOGETHER * SECOND:
                known.append(event)
                continue
            together[key] = group
        lines.append((event, group))
    return [_event_line(answer, event, group) for event, group in lines]


def _event_line(answer: Answer, event: Event, group: List[Event]) -> str:
    hosts = list(dict.fromkeys(each.host for each in group))
    if len(hosts) == 1:
        who, text = f"host {event.host}" if event.host else "", event.text
    else:
        who, text = f"{len(hosts)} hosts", f"{event.text.partition(':')[0]}: {describe(event.reasons[0])}"
    return f"{_at(answer.typical, event):8.1f}  {who:<9} {text}"


def _at(run: RunOf, event: Event) -> float:
    return (event.at - run.begins) / SECOND


def _certainty(answer: Answer) -> List[str]:
    count = len(answer.runs)
    less = f" (of {answer.planned} wanted: time was up)" if count < answer.planned else ""
    lines = [
        f"How sure is this: {answer.certainty}. {_runs(count)} of the product's own code{less}, each with other phases",
        "of clocks and renewals; storage, libvirt, sanlock and the appliance are models of what was measured.",
    ]
    return lines + [f"  * {each.text}" for each in answer.assumptions]


# --- for programs -----------------------------------------------------------------------------------------------------


def document(answer: Answer) -> Dict[str, Any]:
    runs = answer.runs
    found: Dict[str, Any] = {
        "faults": [
            {"fault": each.name, "host": each.host or None, "at": each.at, "for": each.seconds}
            for each in answer.question.faults
        ],
        "hosts": [
            {"id": host.id, "name": host.name, "mode": host.mode, "state": host.state, "score": host.score}
            for host in answer.cluster.hosts
        ],
        "problems": list(answer.cluster.problems),
        "engine_on": answer.cluster.engine_on or None,
        "runs": len(runs),
        "planned": answer.planned,
        "outage": {
            "min": _seconds(answer.best),
            "typical": _seconds(answer.typical),
            "max": _seconds(answer.worst),
            "parts": _parts(answer),
            "not_back": sum(not run.outage.back for run in runs),
        },
        "engine_afterwards": sorted({run.engine_on for run in runs if run.engine_on}),
        "announced": None if answer.bound is None else _announced(answer, *answer.bound),
        "boot": answer.boot,
        "timeline": [_event(answer.typical, event) for event in answer.typical.events],
        "certainty": answer.certainty,
        "assumptions": [{"code": each.code, "text": each.text} for each in answer.assumptions],
        "violations": list(answer.violations),
    }
    return found


def _seconds(run: RunOf) -> Optional[float]:
    """None: it did not come back."""
    return round(run.outage.seconds, 1) if run.outage.back else None


def _parts(answer: Answer) -> Dict[str, Any]:
    found = {}
    for name, seconds in answer.typical.outage.parts.items():
        low, high = _range(answer, name)
        found[name] = {"min": round(low, 1), "typical": round(seconds, 1), "max": round(high, 1)}
    return found


def _announced(answer: Answer, name: str, seconds: float) -> Dict[str, Any]:
    longest = _without_boot(answer)
    return {
        "bound": name,
        "seconds": seconds,
        "max_without_boot": None if longest is None else round(longest, 1),
        "kept": longest is not None and longest <= seconds,
    }


def _event(run: RunOf, event: Event) -> Dict[str, Any]:
    return {
        "at": round(_at(run, event), 1),
        "host": event.host or None,
        "what": event.what,
        "text": event.text,
        "reasons": [{"code": each.code, "text": describe(each), **dict(each.values)} for each in event.reasons],
    }
