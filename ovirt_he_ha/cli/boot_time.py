"""How long the appliance takes to boot: from this host's own ledger, which saw it start and become healthy."""

import statistics
from typing import Any, Dict, List, Optional, Sequence

from ovirt_he_ha.config.ledgers import LedgerProblem, read_own
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.ledger import HERE, Entry
from ovirt_he_ha.core.model import State

STARTS = 5  # the last ones: an appliance grows slower with the years


def boot_time(paths: HostPaths) -> Optional[Dict[str, Any]]:
    """The middle one of the last starts, in seconds from running processors to good health, and how many there were;
    None where no start was seen, or the ledger cannot be read."""
    try:
        entries = read_own(paths.ledger).entries
    except LedgerProblem:
        return None
    measured = boots(entries)[-STARTS:]
    return {"seconds": round(statistics.median(measured), 1), "starts": len(measured)} if measured else None


def boots(entries: Sequence[Entry]) -> List[float]:
    """Of the starts that this host ordered: a VM that was taken over had booted before."""
    found: List[float] = []
    boot, ordered, ran = "", False, None
    for entry in entries:
        if entry.boot_id != boot or entry.kind == "begin":
            boot, ordered, ran = entry.boot_id, False, None
        if entry.kind == "order" and entry.values.get("action") == "start":
            ordered, ran = True, None
        elif entry.kind == "vm":
            here = entry.values.get("vm") == HERE
            ordered = ordered and (here or ran is None)
            ran = entry.at if here and ordered else None
        elif entry.kind == "state" and entry.values.get("to") == State.ENGINE_UP.value:
            if ran is not None:
                found.append(max(0.0, entry.at - ran))
            ordered, ran = False, None
    return found
