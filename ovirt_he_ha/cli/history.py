"""What happened: --history, this host's ledger; --audit, whether the VM ever ran twice."""

import json
import re
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Dict, List, Optional, Tuple

from ovirt_he_ha.cli.request import Refusal, Request, say, warn
from ovirt_he_ha.config.ledgers import Read, by_host, read_given, read_own
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.ledger import Entry, texts
from ovirt_he_ha.core.reasons import decode_reason, describe
from ovirt_he_ha.core.tenures import CLOSED, Audit, Change, Finding, audit

EXIT_OVERLAP = 1
EXIT_UNPROVED = 3
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SINCE = "a duration such as 90s, 30m, 2h, 3d, 1w, or a time such as 14:00 or 2024-05-31T14:00"
_PROVED = """What it says: sanlock counts each taking of the lease, and no clock was compared with one of another host.
A change is closed when the VM was seen gone while the record still had its version. Otherwise the versions put the two
copies in order, and that the first had stopped before the next began is what sanlock and the watchdog promise.
What it does not say: what happened before a ledger's first line, on hosts without one, or while no agent ran."""


def history(request: Request) -> int:
    since = _since(request.value("--since"))
    read = read_own(HostPaths.from_env().ledger)
    entries = [entry for entry in read.entries if since is None or entry.wall >= since]
    if request.json:
        say(json.dumps({"entries": [_as_json(entry) for entry in entries], "skipped": _skipped(read)}))
        return 0
    for entry in entries:
        say(_line(entry))
    if not entries:
        what = "no line that can be read" if read.skipped and not read.entries else "no lines"
        say(f"The ledger has {what}" + ("" if since is None else " since then"))
    _warn_of(read)
    return 0


def audit_ledgers(request: Request) -> int:
    """0 in order; 1 an overlap; 3 none, but not everything can be put in order."""
    own, given = read_own(HostPaths.from_env().ledger), read_given(request.words)
    read = Read(own.entries + given.entries, own.skipped + given.skipped)
    if not read.entries:
        unread = "; ".join(each.text for each in _unread(read)) or "This host's ledger has no lines"
        raise Refusal("no-ledger", f"{unread}, and no other was given: nothing to audit")
    ledgers = by_host(read.entries)
    found = audit(ledgers)
    found = replace(found, unproved=found.unproved + _unread(read))
    status = EXIT_OVERLAP if found.overlaps else EXIT_UNPROVED if found.unproved else 0
    if request.json:
        say(json.dumps(_audit_json(found, sorted(ledgers), read)))
        return status
    for change in found.changes:
        say(_change(change))
    for finding in found.overlaps:
        _show("OVERLAP", finding)
    for finding in found.unproved:
        _show("Not proved", finding)
    hosts = ", ".join(str(host_id) for host_id in ledgers)
    say(f"{_verdict(found)} ({len(found.tenures)} copies in the ledgers of host {hosts})")
    say(_PROVED)
    return status


def _unread(read: Read) -> Tuple[Finding, ...]:
    """What a line said that cannot be read may be just what matters: one finding for each file."""
    found = []
    for path in dict.fromkeys(each.path for each in read.skipped):
        lines = [each for each in read.skipped if each.path == path]
        count = len(lines) + lines[-1].more
        text = f"{path}: {count} lines cannot be read" if count > 1 else f"{path}: a line cannot be read"
        found.append(Finding("unreadable-lines", f"{text}, line {lines[0].line} ({lines[0].why})", ()))
    return tuple(found)


def _verdict(found: Audit) -> str:
    if found.overlaps:
        return "The VM ran twice at once"
    return "No overlap was found, but not everything is in order" if found.unproved else "No two copies overlapped"


def _since(text: Optional[str]) -> Optional[float]:
    """Seconds since the epoch. Without a zone a time is this host's; without a day, the last time that it was."""
    if text is None:
        return None
    moment = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text, re.ASCII)
    if moment:
        now = datetime.now()
        today = now.replace(hour=int(moment.group(1)), minute=int(moment.group(2)), second=0, microsecond=0)
        return (today if today <= now else today - timedelta(days=1)).timestamp()
    duration = re.fullmatch(r"([0-9]{1,9})([smhdw])", text, re.ASCII)
    if duration:
        return time.time() - int(duration.group(1)) * _UNITS[duration.group(2)]
    try:
        return datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise Refusal("usage", f"--since: expected {_SINCE}, found {text[:40]!r}") from None


def _when(entry: Entry) -> str:
    try:
        return datetime.fromtimestamp(entry.wall).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "????-??-?? ??:??:??"  # a clock that nobody can have had


def _line(entry: Entry) -> str:
    text = f"{_when(entry)}  host {entry.host_id} #{entry.number}  {entry.kind:<11} {_told(entry)}".rstrip()
    return _plain(f"{text}  [{_lease(entry)}]")


def _lease(entry: Entry) -> str:
    look, own = entry.look, entry.own_generation
    if look is None:
        held = "lease unknown"
    else:
        holder = f"host {look.owner} generation {look.generation}" if look.owner else "free"
        held = f"lease {holder}, version {look.version or 'unknown'}"
    return held if own is None else f"{held}; own generation {own}"


def _told(entry: Entry) -> str:
    values = dict(entry.values)
    why = _why(values.pop("why", None))
    if entry.kind == "state":
        text = f"{values.get('from')} -> {values.get('to')}"
    else:
        shown = {key: value for key, value in values.items() if value not in ("", 0) or isinstance(value, bool)}
        text = " ".join(f"{key}={_value(value)}" for key, value in (shown or values).items())
    return f"{text}: {'; '.join(why)}" if why else text


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value != "" else "none"


def _why(value: Any) -> List[str]:
    reasons = [decode_reason(text) for text in texts(value)]
    return [describe(reason) for reason in reasons if reason is not None]


def _plain(text: str) -> str:
    """A ledger may have been written by anybody: nothing in it may steer a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _change(change: Change) -> str:
    before, after = change.before, change.after
    text = f"host {before.host_id} (version {before.versions[1]}) -> host {after.host_id} (version {after.versions[0]})"
    if change.proof == CLOSED:
        return f"{text}: closed"
    return (
        f"{text}: in order; last seen {before.unwatched:.1f} s after the lease was last read as host {before.host_id}'s"
    )


def _show(title: str, finding: Finding) -> None:
    say(_plain(f"{title}: {finding.text}"))
    for entry in finding.lines:
        say(f"    {_line(entry)}")


def _as_json(entry: Entry) -> Dict[str, Any]:
    look = entry.look
    return {
        "number": entry.number,
        "kind": entry.kind,
        "host-id": entry.host_id,
        "boot-id": entry.boot_id,
        "monotonic": entry.at,
        "wall": entry.wall,
        "seen": entry.seen,
        "own-generation": entry.own_generation,
        "lease": None if look is None else look.__dict__,
        "values": dict(entry.values),
        "why": _why(entry.values.get("why")),
    }


def _audit_json(found: Audit, hosts: List[int], read: Read) -> Dict[str, Any]:
    answer: Dict[str, Any] = {
        "hosts": hosts,
        "verdict": "overlap" if found.overlaps else "unproved" if found.unproved else "in-order",
        "overlaps": [_finding_json(each) for each in found.overlaps],
        "unproved": [_finding_json(each) for each in found.unproved],
        "changes": [
            {
                "from": {"host-id": each.before.host_id, "version": each.before.versions[1]},
                "to": {"host-id": each.after.host_id, "version": each.after.versions[0]},
                "proof": each.proof,
            }
            for each in found.changes
        ],
        "skipped": _skipped(read),
    }
    if found.overlaps:
        answer["error"] = {"code": "overlap", "message": found.overlaps[0].text}
    return answer


def _finding_json(finding: Finding) -> Dict[str, Any]:
    return {"code": finding.code, "text": finding.text, "lines": [_as_json(entry) for entry in finding.lines]}


def _skipped(read: Read) -> List[Dict[str, Any]]:
    return [each._asdict() for each in read.skipped]


def _warn_of(read: Read) -> None:
    for each in read.skipped:
        more = f"; {each.more} more after it" if each.more else ""
        warn(_plain(f"{each.path}:{each.line}: skipped: {each.why}{more}"))
