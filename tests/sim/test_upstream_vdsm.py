"""vdsm's records and the engine monitor's table, row by row."""

import pytest

from ovirt_he_ha.sim.upstream_vdsm import HELD, EngineHealth, Vdsm, VdsmError, VmRecord


class Door:
    """Only what the monitor asks."""

    def __init__(self):
        self.second = 100.0
        self.good = True
        self.seconds = 0.05
        self.reachable = True
        self.asked = []

    @property
    def hypervisor(self):
        return self

    def monotonic(self):
        return self.second

    def page(self):
        return self.good, self.seconds

    def create(self, done):
        self.done = done

    def shutdown(self):
        self.asked.append("shutdown")

    def destroy(self, done):
        self.done = done


class Answer:
    """vdsm that says what it is told to say."""

    def __init__(self, found):
        self.found = found

    def vm(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def monitor(found, last="down", good=True):
    door = Door()
    door.good = good
    health = EngineHealth(door, Answer(found))
    health._last = last
    for _ in health.look():
        pass
    return health


def record(status, reason=0, message=""):
    return VmRecord(status, reason, message, "2147583647")


ROWS = [
    (None, "up", "down_missing", "bad", "unknown"),
    (None, "down", "down", "bad", "unknown"),
    (None, "down_unexpected", "down_unexpected", "bad", "unknown"),
    (VdsmError("x"), "up", "unknown", "unknown", "unknown"),
    (record("Down", 1, "oops: " + HELD), "up", "down", "bad", "Down"),
    (record("Down", 4), "up", "down", "bad", "Down"),
    (record("Down", 1, "qemu died"), "up", "down_unexpected", "bad", "Down"),
    (record("Down", 1, HELD + ", or so"), "up", "down_unexpected", "bad", "Down"),
    (record("Down", 7), "down", "down", "bad", "Down"),
    (record("Migration Destination"), "down", "down", "bad", "Migration Destination"),
    (record("Migration Destination"), "up", "down_unexpected", "bad", "Migration Destination"),
    (record("Paused"), "down", "up", "bad", "Paused"),
    (record("WaitForLaunch"), "down", "up", "bad", "WaitForLaunch"),
    (record("Powering up"), "down", "up", "bad", "Powering up"),
    (record("Up"), "down", "up", "good", "Up"),
    (record("Migration Source"), "up", "up", "good", "Migration Source"),
    (record("Powering down"), "up", "up", "good", "Powering down"),
]


@pytest.mark.parametrize(("found", "last", "vm", "health", "detail"), ROWS)
def test_the_monitors_table(found, last, vm, health, detail):
    value = monitor(found, last).value
    assert (value["vm"], value["health"], value["detail"]) == (vm, health, detail)
    assert list(value)[:3] == ["vm", "health", "detail"]
    assert ("reason" in value) is (health != "good")


def test_a_page_that_is_not_good_is_bad_health():
    assert monitor(record("Up"), good=False).value["health"] == "bad"


def test_unknown_does_not_change_what_it_remembers():
    health = monitor(VdsmError("x"), "up")
    health._vdsm.found = None
    health._door.second += 10
    assert list(health.look()) == []
    assert health.value["vm"] == "down_missing"


def test_an_old_sample_does_not_replace_a_newer_one():
    door = Door()
    answer = Answer(VmRecord("Up", stamp="200"))
    health = EngineHealth(door, answer)
    slow = health.look()
    next(slow)  # it waits for the page
    answer.found = VmRecord("Down", 4, "", "300")
    list(health.look())
    assert list(slow) == []
    assert health.value["detail"] == "Down"


def test_w4_stamps_are_compared_as_text():
    door = Door()
    answer = Answer(VmRecord("Up", stamp="9999999999"))
    health = EngineHealth(door, answer)
    list(health.look())
    answer.found = VmRecord("Down", 1, "qemu died", "10000000000")
    door.second += 10
    list(health.look())
    assert health.value["detail"] == "Up"
    answer.found = None  # has no stamp of vdsm's
    door.second += 10
    list(health.look())
    assert health.value["vm"] == "down_missing"


def test_the_page_has_20_s():
    door = Door()
    door.good, door.seconds = False, 30.0
    assert list(EngineHealth(door, Answer(record("Up"))).look()) == [20.0]


# --- vdsm -----------------------------------------------------------------------------------------------------------


def status(vdsm):
    found = vdsm.vm()
    return found and found.status


def test_a_create_is_accepted_before_anything_runs():
    door = Door()
    vdsm = Vdsm(door)
    changes = []
    vdsm.on_change = lambda: changes.append(status(vdsm))
    vdsm.create()
    assert status(vdsm) == "WaitForLaunch"
    with pytest.raises(VdsmError):
        vdsm.create()
    door.done("ok", "")
    assert changes == ["WaitForLaunch", "Up"]


@pytest.mark.parametrize(
    ("outcome", "detail", "message"), [("busy", "", HELD), ("failed", "no such file", "no such file")]
)
def test_a_create_that_fails_leaves_a_record_until_it_is_destroyed(outcome, detail, message):
    door = Door()
    vdsm = Vdsm(door)
    vdsm.create()
    door.done(outcome, detail)
    assert (status(vdsm), vdsm.vm().exit_message) == ("Down", message)
    doing = vdsm.destroy()
    assert doing.ok is None
    door.done(True)
    assert (doing.ok, vdsm.vm()) == (True, None)
    for call in (vdsm.destroy, vdsm.shutdown):
        with pytest.raises(VdsmError):
            call()


def test_a_destroy_that_fails_keeps_the_record():
    door = Door()
    vdsm = Vdsm(door)
    vdsm.event("resumed", "")
    doing = vdsm.destroy()
    door.done(False)
    assert (doing.ok, status(vdsm)) == (False, "Up")


def test_powering_down_is_shown_for_300_s():
    door = Door()
    vdsm = Vdsm(door)
    vdsm.event("resumed", "")
    vdsm.shutdown()
    assert (status(vdsm), door.asked) == ("Powering down", ["shutdown"])
    door.second += 300
    assert status(vdsm) == "Up"


@pytest.mark.parametrize(
    ("events", "shown", "reason"),
    [
        ([("resumed", ""), ("suspended", "ioerror")], "Paused", 0),
        ([("resumed", ""), ("suspended", "ioerror"), ("resumed", "")], "Up", 0),
        ([("resumed", ""), ("migrating", "")], "Migration Source", 0),
        ([("resumed", ""), ("migrating", ""), ("suspended", "migration")], "Migration Source", 0),
        ([("resumed", ""), ("migrating", ""), ("suspended", "migration"), ("stopped", "migrated")], "Down", 4),
        ([("resumed", ""), ("migrating", ""), ("job-completed", "")], "Up", 0),
        ([("resumed", ""), ("migrating", ""), ("suspended", "migration"), ("job-completed", "")], "Paused", 0),
        ([("started", "migrated")], "Migration Destination", 0),
        ([("started", "migrated"), ("resumed", "migrated")], "Up", 0),
        ([("resumed", ""), ("stopped", "shutdown")], "Down", 7),
        ([("resumed", ""), ("stopped", "destroyed")], "Down", 6),
        ([("resumed", ""), ("stopped", "crashed")], "Down", 1),
        ([("stopped", "crashed")], None, None),
    ],
)
def test_statuses(events, shown, reason):
    vdsm = Vdsm(Door())
    for event in events:
        vdsm.event(*event)
    assert status(vdsm) == shown
    if shown is not None:
        assert vdsm.vm().exit_reason == reason


def test_vdsm_or_libvirt_that_is_not_there_is_an_error():
    door = Door()
    vdsm = Vdsm(door)
    door.reachable = False
    with pytest.raises(VdsmError):
        vdsm.vm()
    door.reachable, vdsm.up = True, False
    with pytest.raises(VdsmError):
        vdsm.vm()
