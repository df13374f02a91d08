"""What of the protection meter is said: in the journal by fields, in the ledger by lines, and not at every hiccup."""

import logging
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

import pytest

from ovirt_he_ha.agent.meter import PATIENCE, Meter, Patience
from ovirt_he_ha.agent.scribe import Scribe
from ovirt_he_ha.core import findings, states
from ovirt_he_ha.core.model import Decision, Finding, Level, Protection, Snapshot
from ovirt_he_ha.core.timers import Timers
from tests.core.world import World

OFF = findings.found("watchdog-off", Level.UNPROTECTED, (1,))
OUT = findings.found("host-dead", Level.DEGRADED, (3,))
DOUBT = findings.found("watchdog-unknown", Level.UNKNOWN, (2,))
PROBLEM = findings.found("host-problem", Level.DEGRADED, (2,), problems="storage")
NEWS = findings.found("no-live-move", Level.NOTE)


def cycle(*found: Finding, at: float = 0.0) -> Tuple[Snapshot, Decision]:
    world = World()
    world.now += at
    snapshot: Snapshot = world.snapshot()
    decision = states.decide(snapshot, Timers())
    meter = Protection(findings.overall(found), findings.by_severity(found), 1, (2,), 3)
    return snapshot, replace(decision, protection=meter)


class Journal:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.INFO, "ovirt_he_ha.agent.meter")
        self.meter = Meter()

    def note(self, *found: Finding, at: float = 0.0) -> List[Dict[str, Any]]:
        self._caplog.clear()
        self.meter.note(*cycle(*found, at=at))
        return [vars(each) for each in self._caplog.records]


@pytest.fixture
def journal(caplog: pytest.LogCaptureFixture) -> Journal:
    return Journal(caplog)


def test_a_drop_is_a_warning_with_its_fields(journal: Journal) -> None:
    first = journal.note()
    assert [(line["levelno"], line["HE_PROTECTION"]) for line in first] == [(logging.INFO, "protected")]
    lines = journal.note(OFF, OUT)
    assert [line["levelno"] for line in lines] == [logging.WARNING]
    fields = {name: lines[0][name] for name in ("HE_PROTECTION", "HE_OLD_PROTECTION", "HE_REASON", "HE_HOST_ID")}
    assert fields == {
        "HE_PROTECTION": "unprotected",
        "HE_OLD_PROTECTION": "protected",
        "HE_REASON": "watchdog-off:1,host-dead:3",
        "HE_HOST_ID": 1,
    }
    assert journal.note(OFF, OUT) == []
    assert [line["levelno"] for line in journal.note(OFF)] == [logging.INFO]
    assert [line["HE_PROTECTION"] for line in journal.note()] == ["protected"]


def test_one_more_lack_is_a_warning_though_the_level_stays(journal: Journal) -> None:
    journal.note(OFF)
    assert [line["levelno"] for line in journal.note(OFF, OUT)] == [logging.WARNING]


@pytest.mark.parametrize("passing", [DOUBT, PROBLEM])
def test_what_passes_within_a_minute_is_not_said_and_what_stays_is(journal: Journal, passing: Finding) -> None:
    journal.note()
    assert journal.note(passing, at=1.0) == []
    assert journal.note(passing, at=1.0 + PATIENCE - 0.1) == []
    assert journal.note(at=70.0) == []
    assert journal.note(passing, at=80.0) == []
    said = journal.note(passing, at=80.0 + PATIENCE)
    assert [(line["HE_PROTECTION"], line["HE_REASON"]) for line in said] == [("degraded", findings.short(passing))]


def test_at_the_start_nothing_is_called_protected_while_something_is_unknown(journal: Journal) -> None:
    assert journal.note(DOUBT) == []
    assert [line["HE_PROTECTION"] for line in journal.note(DOUBT, at=PATIENCE)] == ["degraded"]


def test_a_host_more_that_is_unknown_does_not_hide_the_one_before() -> None:
    patience = Patience()
    patience.read(0.0, cycle(DOUBT)[1])
    both = replace(DOUBT, hosts=(2, 3))
    patience.read(30.0, cycle(both)[1])
    assert patience.read(PATIENCE, cycle(both)[1]).codes == ["watchdog-unknown:2"]
    assert patience.read(30.0 + PATIENCE, cycle(both)[1]).codes == ["watchdog-unknown:2.3"]


def test_news_are_no_lack(journal: Journal) -> None:
    assert [line["HE_PROTECTION"] for line in journal.note(NEWS)] == ["protected"]


def ledger(scribe: Scribe, *found: Finding, at: float = 0.0) -> Optional[Dict[str, Any]]:
    lines = [dict(each.values) for each in scribe.changes(*cycle(*found, at=at)) if each.kind == "protection"]
    assert len(lines) <= 1
    return lines[0] if lines else None


def test_a_drop_is_a_line_of_the_ledger() -> None:
    scribe = Scribe()
    first = ledger(scribe)
    assert first is not None and (first["level"], first["missing"]) == ("protected", [])
    assert ledger(scribe, OFF) == {"level": "unprotected", "missing": ["watchdog-off:1"]}
    assert ledger(scribe, OFF) is None
    assert ledger(scribe, OFF, DOUBT) is None
    assert ledger(scribe) == {"level": "protected", "missing": []}
