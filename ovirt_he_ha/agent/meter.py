"""What of the protection meter is worth a line in the ledger and in the journal: nothing is silently off, and nothing
is cried at every hiccup.

The slot shows the meter as it is. What is *missing* is said at once; what is only *unknown* once it has been so for a
minute: a start, a move or a slow read makes something unknown for some seconds.
"""

import logging
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Tuple

from ovirt_he_ha.core import findings
from ovirt_he_ha.core.model import Decision, Finding, Level, Record, Snapshot

log = logging.getLogger(__name__)

PATIENCE = 60.0  # product seconds that something may be unknown
_RANK = (Level.PROTECTED, Level.DEGRADED, Level.UNPROTECTED)
_MOST_TOLD = 6
_MOST_CODES = 500  # characters of one journal field


@dataclass(frozen=True)
class Said:
    """``level`` None: only that something is unknown for the moment. ``lacks``: what counts, the worst first."""

    level: Optional[Level]
    lacks: Tuple[Finding, ...]

    @property
    def codes(self) -> List[str]:
        return [findings.short(finding) for finding in self.lacks]


def _may_pass(finding: Finding) -> bool:
    """Unknown; or what a host shows of itself for a moment: a late read, a look at everything anew."""
    return finding.level is Level.UNKNOWN or finding.code in ("host-problem", "host-score")


_Key = Tuple[str, int]


def _keys(finding: Finding) -> List[_Key]:
    return [(finding.code, host_id) for host_id in finding.hosts or (0,)]


class Patience:
    """Of one reader, from cycle to cycle."""

    def __init__(self) -> None:
        self._since: Dict[_Key, float] = {}

    def read(self, now: float, decision: Decision) -> Said:
        """``now``: product seconds, monotonic."""
        counted = [finding for finding in decision.protection.findings if finding.level is not Level.NOTE]
        passing = [key for finding in counted if _may_pass(finding) for key in _keys(finding)]
        self._since = {key: self._since.get(key, now) for key in passing}
        lacks = tuple(one for one in (self._settled(finding, now) for finding in counted) if one is not None)
        level = findings.overall(lacks)
        waits = level is Level.PROTECTED and len(counted) > 0
        return Said(None if waits else level, lacks)

    def _settled(self, finding: Finding, now: float) -> Optional[Finding]:
        """With those of its hosts of which it has been true for long enough; None: of none."""
        if not _may_pass(finding):
            return finding
        kept = [host_id for code, host_id in _keys(finding) if now - self._since[code, host_id] >= PATIENCE]
        return replace(finding, hosts=tuple(kept) if finding.hosts else ()) if kept else None


class Meter:
    """The journal's lines of one agent's life. What it finds at its start is said as well."""

    def __init__(self) -> None:
        self._patience = Patience()
        self._said = Said(None, ())

    def note(self, snapshot: Snapshot, decision: Decision) -> None:
        """A line for each change. Never raises."""
        now, before = self._patience.read(snapshot.now, decision), self._said
        if now.level is None or (now.level, now.codes) == (before.level, before.codes):
            return
        self._said = now
        old = before.level or Level.PROTECTED
        known = before.codes
        new = [finding for finding, code in zip(now.lacks, now.codes) if code not in known]
        names = {host_id: slot.hostname for host_id, slot in snapshot.slots.items() if isinstance(slot, Record)}
        told = [findings.describe(finding, names)[0] for finding in new[:_MOST_TOLD]]
        log.log(
            logging.WARNING if new or _RANK.index(now.level) > _RANK.index(old) else logging.INFO,
            "The VM is %s%s",
            now.level.value,
            ": " + "; ".join(told) if told else "",
            extra={
                "HE_PROTECTION": now.level.value,
                "HE_OLD_PROTECTION": "" if before.level is None else before.level.value,
                "HE_REASON": ",".join(now.codes)[:_MOST_CODES],
                "HE_HOST_ID": snapshot.host.host_id,
            },
        )
