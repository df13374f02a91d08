"""Did two copies of the VM ever run at once? The hosts' ledgers judged by the lease's own counters.

sanlock adds one to the record's version whenever a host takes the lease, so two *tenures* (a copy ran on a host, under
the versions that the record named as this host's) are in order when the versions are. What a host says in one line and
the next is in order as well, by its own monotonic clock within one boot. Nothing else is compared: no wall clock, and
no monotonic clock of one host with that of another.
"""

from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ovirt_he_ha.core.ledger import HERE, LOOK_SECONDS, Entry, Look

CLOSED = "closed"
ORDERED = "ordered"


@dataclass
class Tenure:
    """A copy's life on one host. ``lines``: the ledger's, from the one that first shows it running up to the next copy
    or boot; ``last``: the one that shows it gone, or the newest. ``reset``: the host booted anew, and no process
    outlives that. ``looks``: the records read while it was surely running; ``late``: read so shortly before it was
    last seen that the order of the two is not known. Product seconds of the host's clock."""

    host_id: int
    boot_id: str
    lines: List[Entry]
    last: Entry
    first_seen: float
    last_seen: float
    ended: bool = False
    reset: bool = False
    looks: List[Tuple[Look, Entry]] = field(default_factory=list)
    late: List[Tuple[Look, Entry]] = field(default_factory=list)
    own: List[Look] = field(default_factory=list)
    closed: bool = False

    @property
    def first(self) -> Entry:
        return self.lines[0]

    @property
    def versions(self) -> Tuple[int, int]:
        """The lowest and highest version that the record had as this host's; (0, 0): none was seen."""
        known = [look.version for look in self.own]
        return (min(known), max(known)) if known else (0, 0)

    @property
    def unwatched(self) -> float:
        """Seconds between the last read that named this host and the last time the copy was seen."""
        return max(0.0, self.last_seen - max((look.at for look in self.own), default=self.first_seen))


@dataclass(frozen=True)
class Finding:
    """``code``: ``overlap``, or why something is not proved. ``lines``: the entries concerned."""

    code: str
    text: str
    lines: Tuple[Entry, ...]


@dataclass(frozen=True)
class Change:
    """The VM went from one host to another. ``proof``: CLOSED (the copy was seen gone while the record still had its
    version), or ORDERED (the versions are in order; that the copy had stopped before the next host got the lease is
    what sanlock and the watchdog promise, and no line shows it)."""

    before: Tenure
    after: Tenure
    proof: str


@dataclass(frozen=True)
class Audit:
    tenures: Tuple[Tenure, ...]
    changes: Tuple[Change, ...]
    overlaps: Tuple[Finding, ...]
    unproved: Tuple[Finding, ...]


def audit(ledgers: Mapping[int, Sequence[Entry]]) -> Audit:
    """``ledgers``: each host's lines in their order."""
    tenures = [tenure for host_id in sorted(ledgers) for tenure in tenures_of(ledgers[host_id])]
    overlaps: List[Finding] = []
    unproved = _missing_hosts(ledgers) + _lost_lines(ledgers) + _written_anew(ledgers)
    for tenure in tenures:
        for finding in _strangers(tenure, tenures):
            (overlaps if finding.code == "overlap" else unproved).append(finding)
        unproved += _without_version(tenure)
    known = sorted((tenure for tenure in tenures if tenure.own), key=lambda each: (each.versions, each.host_id))
    unproved += _not_in_order(known)
    return Audit(tuple(tenures), tuple(_changes(known)), tuple(overlaps), tuple(unproved))


# --- one host's copies ----------------------------------------------------------------------------------------------


def tenures_of(entries: Sequence[Entry]) -> List[Tenure]:
    """The copies in one host's ledger."""
    found: List[Tenure] = []
    for entry in entries:
        present = found[-1] if found else None
        if present is not None and entry.boot_id != present.boot_id and not present.ended:
            present.ended = present.reset = True
        if _begins(entry, present):
            seen = entry.at if entry.seen is None else entry.seen
            found.append(Tenure(entry.host_id, entry.boot_id, [entry], entry, seen, seen))
        elif present is not None and entry.boot_id == present.boot_id:
            _continue(present, entry)
    for tenure in found:
        _sort_looks(tenure)
    return found


def _begins(entry: Entry, present: Optional[Tenure]) -> bool:
    return entry.kind == "vm" and entry.values.get("vm") == HERE and (present is None or present.ended)


def _continue(tenure: Tenure, entry: Entry) -> None:
    tenure.lines.append(entry)
    if tenure.ended:
        return
    tenure.last = entry
    tenure.last_seen = max(tenure.last_seen, tenure.last_seen if entry.seen is None else entry.seen)
    tenure.ended = entry.kind == "vm" and entry.values.get("vm") != HERE


def _sort_looks(tenure: Tenure) -> None:
    looks = [(entry.look, entry) for entry in tenure.lines if entry.look is not None]
    for look, entry in looks:
        # An older one may be of this host's copy before this one.
        if tenure.first_seen - LOOK_SECONDS <= look.at <= tenure.last.at and look.owner == tenure.host_id:
            tenure.own += [look] if look.version else []
        if tenure.first_seen + LOOK_SECONDS <= look.at <= tenure.last_seen - LOOK_SECONDS:
            tenure.looks.append((look, entry))
        elif tenure.first_seen < look.at < tenure.last_seen:
            tenure.late.append((look, entry))
    if tenure.ended and not tenure.reset and tenure.own:
        after = [look for look, _ in looks if look.at - LOOK_SECONDS >= tenure.last.at]
        tenure.closed = any(look.version == tenure.versions[1] for look in after)


# --- judging --------------------------------------------------------------------------------------------------------


def _strangers(tenure: Tenure, tenures: Sequence[Tenure]) -> List[Finding]:
    """Records that did not name this host although its copy ran."""
    found = []
    told: Set[Tuple[int, int, int]] = set()
    for look, entry in tenure.looks + tenure.late:
        key = (look.owner, look.generation, look.version)
        if look.owner == tenure.host_id or key in told:
            continue
        sure = (look, entry) in tenure.looks
        if not sure and _is_lag(look, tenure):
            continue
        told.add(key)
        others = [each for each in tenures if _ran_under(each, look)] if look.owner else []
        found.append(_stranger(tenure, look, entry, others, sure))
    return found


def _is_lag(look: Look, tenure: Tenure) -> bool:
    """Read while the copy was just getting the lease, or giving it back at its end: nobody else's is meant."""
    return look.version < tenure.versions[0] or (look.owner == 0 and look.version == tenure.versions[1])


def _ran_under(tenure: Tenure, look: Look) -> bool:
    """Not only the version: one that was counted anew, after the lease was written anew, names another taking."""
    key = (look.owner, look.generation, look.timestamp, look.version)
    return any(key == (own.owner, own.generation, own.timestamp, own.version) for own in tenure.own)


def _stranger(tenure: Tenure, look: Look, entry: Entry, others: Sequence[Tenure], sure: bool) -> Finding:
    holder = f"host {look.owner} (generation {look.generation})" if look.owner else "nobody"
    ran = f"host {tenure.host_id} ran the VM while the lease, version {look.version}, was held by {holder}"
    lines = (tenure.first, entry, *((tenure.last,) if tenure.last is not entry else ()))
    lines += tuple(other.first for other in others)
    if sure and others:
        return Finding("overlap", f"{ran}, which ran it under that version as well", lines)
    if sure:
        return Finding("without-lease", f"{ran}; no ledger given shows another copy then", lines)
    text = f"host {tenure.host_id} saw its copy up to {tenure.last_seen - look.at:.1f} s after it had read that the "
    text += f"lease, version {look.version}, is held by {holder}: too close to tell which was first"
    return Finding("too-close", text, lines)


def _without_version(tenure: Tenure) -> List[Finding]:
    if tenure.own:
        return []
    text = f"host {tenure.host_id} ran the VM, and its ledger has no version of the lease for that: it has no place "
    return [Finding("no-version", text + "in the order", (tenure.first, tenure.last))]


def _not_in_order(known: Sequence[Tenure]) -> List[Finding]:
    """``known``: ascending by their lowest version; each is held against what reached furthest on each other host."""
    found = []
    furthest: Dict[int, Tenure] = {}
    for tenure in known:
        for host_id, other in sorted(furthest.items()):
            if host_id != tenure.host_id and tenure.versions[0] <= other.versions[1]:
                found.append(_tangled(other, tenure))
        before = furthest.get(tenure.host_id)
        if before is None or tenure.versions[1] >= before.versions[1]:
            furthest[tenure.host_id] = tenure
    return found


def _tangled(one: Tenure, two: Tenure) -> Finding:
    spans = [f"host {each.host_id}: {_span(each.versions)}" for each in (one, two)]
    text = f"the versions do not order these two copies: {'; '.join(spans)}"
    return Finding("no-order", text, (one.first, one.last, two.first, two.last))


def _span(versions: Tuple[int, int]) -> str:
    return str(versions[0]) if versions[0] == versions[1] else f"{versions[0]} to {versions[1]}"


def _changes(known: Sequence[Tenure]) -> List[Change]:
    pairs = zip(known, known[1:])
    return [Change(a, b, CLOSED if a.closed else ORDERED) for a, b in pairs if a.host_id != b.host_id]


# --- what the ledgers do not cover ----------------------------------------------------------------------------------


def _missing_hosts(ledgers: Mapping[int, Sequence[Entry]]) -> List[Finding]:
    """A host that held the lease and whose ledger was not given may have run the VM at any time."""
    seen: Dict[int, Entry] = {}
    for entries in ledgers.values():
        for entry in entries:
            if entry.look is not None and entry.look.owner and entry.look.owner not in ledgers:
                seen.setdefault(entry.look.owner, entry)
    text = "host {} held the lease, and its ledger was not given"
    return [Finding("no-ledger", text.format(host_id), (entry,)) for host_id, entry in sorted(seen.items())]


def _lost_lines(ledgers: Mapping[int, Sequence[Entry]]) -> List[Finding]:
    """Numbers that are missing between two lines. (What came before the oldest line is nobody's claim.)"""
    found = []
    for host_id, entries in sorted(ledgers.items()):
        for before, after in zip(entries, entries[1:]):
            if after.number > before.number + 1 or after.kind == "lost":
                text = f"host {host_id}: lines are missing between {before.number} and {after.number}"
                found.append(Finding("lost-lines", text, (before, after)))
    return found


def _written_anew(ledgers: Mapping[int, Sequence[Entry]]) -> List[Finding]:
    """A version that went back: the lease was written anew, and its counting began again."""
    found = []
    for host_id, entries in sorted(ledgers.items()):
        before: Optional[Entry] = None
        for entry in entries:
            if entry.look is None or not entry.look.version:
                continue
            if before is not None and before.look is not None and entry.look.version < before.look.version:
                text = f"host {host_id}: the lease's version went back from {before.look.version} to "
                text += f"{entry.look.version}: it was written anew, and copies before and after have no common order"
                found.append(Finding("written-anew", text, (before, entry)))
            before = entry
    return found or _counted_twice(ledgers)


def _counted_twice(ledgers: Mapping[int, Sequence[Entry]]) -> List[Finding]:
    """One version, two takings: also then its counting began again, and no host was awake to see it."""
    takings: Dict[int, Tuple[Tuple[int, int, int], Entry]] = {}
    for entries in ledgers.values():
        for entry in entries:
            look = entry.look
            if look is None or not look.owner or not look.version:
                continue
            taking = (look.owner, look.generation, look.timestamp)
            known, first = takings.setdefault(look.version, (taking, entry))
            if known != taking:
                text = f"version {look.version} of the lease was taken twice, by host {known[0]} and host {look.owner}:"
                text += " it was written anew, and copies before and after have no common order"
                return [Finding("written-anew", text, (first, entry))]
    return []
