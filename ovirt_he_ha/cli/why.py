"""--why: what the hosts' reasons and countdowns come to, in one sentence and then host by host."""

import json
import re
import sys
import textwrap
import time
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ovirt_he_ha.cli import upkeep
from ovirt_he_ha.cli.deployment import deployed_conf, link_to_broker
from ovirt_he_ha.cli.explanation import Cluster, explain
from ovirt_he_ha.cli.host_story import UPSTREAM, HostSeen, clock, duration
from ovirt_he_ha.cli.request import Refusal, Request, say, say_painted, warn
from ovirt_he_ha.cli.sources import AGENT, BROKER, BROKER_SECONDS, View, gather
from ovirt_he_ha.cli.table import is_coloured, width_of
from ovirt_he_ha.client.link import BrokerError
from ovirt_he_ha.config.clock import SystemClock
from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.advice import EVENT, FAULT, TIME
from ovirt_he_ha.core.model import MAX_HOST_ID, Invalid, Record

# Who says how old a slot is: this host's own clock, the broker that saw it change, the other host's wall clock.
OWN_CLOCK, CHANGE, WALL_CLOCK, NOBODY = "own-clock", "broker", "wall-clock", "none"
_SAYS_AGE = {
    OWN_CLOCK: "",
    CHANGE: "",
    WALL_CLOCK: " by that host's wall clock",
    NOBODY: " at a time that is not known",
}
_WRITTEN = re.compile(r"^timestamp=[0-9]+ \((.+)\)$", re.MULTILINE)
_BACK = 30.0  # seconds that another host's wall clock may be ahead
_INDENT = 10
_NARROWEST = 40
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"

Struct = Dict[str, Any]


def why(request: Request) -> int:
    """0; 1 no host has published."""
    wanted = request.number("--host", 1, MAX_HOST_ID)
    paths = HostPaths.from_env()
    conf = deployed_conf(paths)
    view = gather(paths, conf)
    cluster = seen(view, conf.host_id, slot_ages(paths, conf, view))
    if wanted is not None and wanted not in (host.host_id for host in cluster.hosts):
        known = ", ".join(str(host.host_id) for host in cluster.hosts) or "none"
        raise Refusal("no-such-host", f"--host: expected a host that has published ({known}), found {wanted}")
    answer = explain(cluster)
    answer["maintenance"] = upkeep.of_cluster(view.hosts)
    answer["problems"] = [problem._asdict() for problem in view.problems]
    answer["sources"] = _sources(view)
    if wanted is not None:
        answer["hosts"] = [host for host in answer["hosts"] if host["host_id"] == wanted]
    if request.json:
        if not cluster.hosts:
            answer["error"] = {"code": "no-hosts", "message": answer["answer"]["text"]}
        say(json.dumps(answer))
    else:
        _print(answer, cluster, upkeep.cluster_lines(view.hosts))
    return 0 if cluster.hosts else 1


def _sources(view: View) -> Struct:
    def origin(source: str, age: Optional[float]) -> Struct:
        return {"from": source, "age": None if age is None else round(age, 1)}

    return {
        "slots": origin(view.slots.source, view.slots.age),
        "live": origin(view.live.source, view.live.age),
        "sanlock": origin(view.leases_from, view.leases.age),
    }


# --- how old a slot is ------------------------------------------------------------------------------------------------


def slot_ages(paths: HostPaths, conf: HostedEngineConf, view: View) -> Mapping[int, Tuple[float, str]]:
    """Host id -> product seconds since it published what was read, and who says so."""
    found: Dict[int, Tuple[float, str]] = {}
    product = SystemClock()
    for host_id, slot in view.hosts.slots.items():
        written = _by_wall_clock(view.hosts.texts.get(host_id, ""), product.wall())
        if written is not None:
            found[host_id] = (written * product.scale, WALL_CLOCK)
        if host_id == conf.host_id and isinstance(slot, Record):
            age = product.monotonic() - slot.timestamp
            if age >= -1.0:  # else it is of an earlier boot
                found[host_id] = (max(0.0, age), OWN_CLOCK)
    for host_id, age in (_by_changes(paths) if view.slots.source == BROKER else {}).items():
        if host_id in view.hosts.slots and host_id != conf.host_id:
            found[host_id] = (age, CHANGE)
    return found


def _by_changes(paths: HostPaths) -> Mapping[int, float]:
    """What the broker saw change; nothing from one that does not tell."""
    try:
        with link_to_broker(paths, BROKER_SECONDS) as link:
            ages = link.health().get("slot_ages", {})
    except BrokerError:
        return {}
    if not isinstance(ages, dict):
        return {}
    return {int(key): float(age) for key, age in ages.items() if _is_age(key, age)}


def _is_age(key: object, age: object) -> bool:
    is_id = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 4
    return is_id and isinstance(age, (int, float)) and not isinstance(age, bool) and age >= 0


def _by_wall_clock(text: str, now: float) -> Optional[float]:
    """From the readable time in the slot's free text."""
    match = _WRITTEN.search(text)
    try:
        written = time.mktime(time.strptime(match.group(1), "%a %b %d %H:%M:%S %Y")) if match else None
    except (ValueError, OverflowError):
        return None
    return None if written is None or now - written < -_BACK else max(0.0, now - written)


# --- what was seen ----------------------------------------------------------------------------------------------------


def seen(view: View, own_id: int, ages: Mapping[int, Tuple[float, str]]) -> Cluster:
    hosts = []
    for host_id, slot in sorted(view.hosts.slots.items()):
        if isinstance(slot, (Record, Invalid)):
            age, source = ages.get(host_id, (None, NOBODY))
            hosts.append(HostSeen(host_id, slot, _is_live(view, own_id, host_id), age, source, view.lease_of(host_id)))
    return Cluster(hosts, own_id, view.hosts.global_maintenance, view.owner)


def _is_live(view: View, own_id: int, host_id: int) -> Optional[bool]:
    """The agent's word counts while the agent itself is there; without it only this host is known."""
    if host_id in view.hosts.alive:
        return True
    if view.live.source == AGENT and own_id in view.hosts.alive:
        return False
    return False if host_id == own_id else None


# --- for people -------------------------------------------------------------------------------------------------------


def _print(answer: Struct, cluster: Cluster, flag: List[str]) -> None:
    width = max(_NARROWEST, min(width_of(sys.stdout), 120))
    text = textwrap.fill(_plain(answer["answer"]["text"]), width)
    say_painted(f"{_BOLD}{text}{_PLAIN}" if is_coloured(sys.stdout) else text)
    for line in [wrapped for each in flag for wrapped in _wrapped("", each, width, 0)]:
        say(_plain(line))
    for line in _lines(answer, cluster, width):
        say(_plain(line))
    for problem in answer["problems"]:
        for line in problem["text"].splitlines():
            warn(_plain(line))


def _lines(answer: Struct, cluster: Cluster, width: int) -> Iterator[str]:
    for step in answer["next"][1:4]:
        yield from _wrapped("", f"Then, or instead: {step['text']}.", width, 0)
    yield from _wrapped("", _lease_line(answer["lease"], cluster), width, 0)
    for host in answer["hosts"]:
        yield ""
        yield from _wrapped("", _heading(host, cluster), width, 0)
        for label, text in _about(host):
            yield from _wrapped(label, text, width, _INDENT)
    if answer["do"]:
        yield ""
        yield "What you can do:"
        for text in answer["do"]:
            yield from _wrapped("  *", text, width, 4)


def _wrapped(label: str, text: str, width: int, indent: int) -> List[str]:
    first = f"  {label}".ljust(indent) if indent > 4 else label.ljust(indent)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * max(indent, 2)) or []


def _lease_line(lease: Struct, cluster: Cluster) -> str:
    if lease["owner"] is None:
        return f"Who holds the VM's lease is not known ({lease['unknown']})."
    age = "" if lease["age"] is None else f", read {lease['age']:.0f} s ago"
    if not lease["owner"]:
        return f"Nobody holds the VM's lease{age}."
    flag = next((host.lease for host in cluster.hosts if host.host_id == lease["owner"]), "unknown")
    return f"The VM's lease is held by {cluster.name(lease['owner'])}{age}; for sanlock that host is {flag}."


def _heading(host: Struct, cluster: Cluster) -> str:
    name = cluster.name(host["host_id"])
    text = f"{name[0].upper()}{name[1:]}" + (", this host" if host["local"] else "")
    if "invalid" in host:
        return f"{text}: its slot is unreadable ({host['invalid']['reason']} {host['invalid']['detail']})".rstrip()
    text += f": {host['state'] or 'state unknown'}"
    if host["since"] is not None:
        text += f" for {duration(host['since'])}"
    if host["live"] is False:
        text += ", NOT LIVE"
    elif host["live"] is None:
        text += f", not known to be live (sanlock: {host['sanlock']})"
    return text + _aged(host)


def _aged(host: Struct) -> str:
    if host["age"] is None:
        return f"; said{_SAYS_AGE[NOBODY]}"
    return f"; said {duration(host['age'])} ago{_SAYS_AGE[host['age_from']]}"


_LABELS = {TIME: "waits", EVENT: "waits", FAULT: "fault"}


def _about(host: Struct) -> Iterator[Tuple[str, str]]:
    if host["kind"] == UPSTREAM:
        yield "says", f"oVirt's own agent: it {host['does']}"
    past = host["live"] is False
    for why_ in host["reasons"]:
        if past:
            yield "said", why_["text"]
        elif not (host["standby"] and why_["code"] in _USUAL):
            yield _LABELS.get(why_["kind"], "says"), _reason_line(host, why_)
    if not past:
        yield from _to_come(host)
    yield from _guarded(host)
    yield from _in_maintenance(host)
    yield "score", _score_line(host["score"])
    for reaction in host["reactions"] if host["vm"]["vm"] == "up" and not past else ():
        yield "if", reaction["text"]


# Of a host that stands by: what its reasons are as long as the VM runs elsewhere.
_USUAL = ("lease-held", "rank")
_USUAL_EVENTS = ("lease", "rank")


def _to_come(host: Struct) -> Iterator[Tuple[str, str]]:
    for countdown in host["countdowns"]:
        if not (host["standby"] and countdown["event"] in _USUAL_EVENTS):
            yield "clock", countdown["text"]
    if host["standby"]:
        yield "next", "stands by"
    elif host["next"]:
        for step in host["next"]:
            yield "next", step["text"]
    elif host["kind"] != UPSTREAM and "invalid" not in host:
        yield "next", "nothing is about to change here"


def _reason_line(host: Struct, why_: Struct) -> str:
    if not why_["until"]:
        return str(why_["text"])
    moment = "" if why_["in"] is None else f" ({clock(why_['in'], host['age'] is not None)})"
    return f"{why_['text']}; until {why_['until']}{moment}"


def _guarded(host: Struct) -> Iterator[Tuple[str, str]]:
    fence = host["fence"]
    if fence is not None and fence["state"] != "guarded":
        left = "" if fence["in"] is None else f", killed {clock(fence['in'], host['age'] is not None)}"
        yield "guard", f"the VM's process here: {fence['state']} {fence['why']}{left}".rstrip()


def _in_maintenance(host: Struct) -> Iterator[Tuple[str, str]]:
    text = upkeep.text_of(host["maintenance"])
    if text:
        yield "maint.", f"local maintenance, {text}"


def _score_line(score: Struct) -> str:
    text = str(score["points"])
    if score["zero"]:
        text += f": {score['zero_text']}"
    elif score["of"] is not None and score["of"] != score["points"]:
        text += f" of {score['of']}"
    losses = [f"-{each['points']} {each['text']}" for each in score["penalties"]]
    return "; ".join([text, *losses])


def _plain(text: str) -> str:
    """Slots may be written by anybody: nothing in them may steer a terminal."""
    return "".join(each if " " <= each <= "~" else "?" for each in text)
