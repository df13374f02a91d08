"""W-4, W-11, W-60 and W-68: what is measured, and with which clock."""

import time
from pathlib import Path

import pytest

from ovirt_he_ha.broker.monitors.bridge import Bridge
from ovirt_he_ha.broker.monitors.cpu import WINDOW, CpuLoad, EngineCpu
from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.health_page import HealthPage
from ovirt_he_ha.broker.monitors.options import OptionError
from ovirt_he_ha.broker.monitors.process_times import ProcessTimes
from ovirt_he_ha.core.model import EngineFacts, EngineStatus, Health, Reading, Vm
from tests.broker.monitors.conftest import HandClock
from tests.broker.monitors.test_engine import BAD, GOOD, here, words
from tests.broker.monitors.test_engine import World as EngineWorld
from tests.broker.monitors.test_health_page import GOOD_BODY, PATH, Sites, page_of
from tests.core.world import World


@pytest.mark.parametrize("turn", [10.0**digits for digits in (4, 5, 6, 7)])
def test_w04_a_clock_that_grows_by_a_digit_stops_no_measurement(tmp_path, turn):
    clock = HandClock()
    clock.now = turn - 10
    world = EngineWorld(clock, tmp_path)
    assert words(world.up(GOOD)) == ("up", "good", "Up")
    clock.now = turn + 10
    assert words(world.up(BAD)) == ("up", "bad", "Up")
    clock.now += 20
    assert world.sees(here()).bad_for >= 20
    assert words(world.up(GOOD)) == ("up", "good", "Up")


def test_w04_a_peers_stamp_that_grows_by_a_digit_is_a_sign_of_life():
    world = World(peers=(2,))
    world.edit(2, timestamp=99_995)
    for _ in range(3):
        assert 2 in world.step(10.0).alive
    assert world.slots[2].timestamp > 100_000


def test_w11_a_bridge_that_cannot_be_looked_at_is_not_up(tmp_path):
    with pytest.raises(Unmeasured):
        Bridge("br0", tmp_path / "nowhere").measure()
    (tmp_path / "class" / "net" / "br0").mkdir(parents=True)
    (tmp_path / "class" / "net" / "br0" / "operstate").mkdir()
    with pytest.raises(Unmeasured):
        Bridge("br0", tmp_path).measure()


def test_w60_the_wall_clock_does_not_touch_the_load(tmp_path, monkeypatch):
    clock = HandClock()
    stat = tmp_path / "stat"
    absent = Reading.of(EngineFacts(EngineStatus(Vm.DOWN, Health.BAD)))
    load = CpuLoad(EngineCpu(lambda: absent, ProcessTimes(tmp_path)), clock.monotonic, tmp_path)
    busy = idle = 0
    values = []
    for second in range(12):
        monkeypatch.setattr(time, "time", lambda second=second: (-1) ** second * 1e9)
        busy, idle = busy + 30, idle + 70
        stat.write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0\n")
        if second:
            values.append(load.measure())
        else:
            with pytest.raises(Unmeasured):
                load.measure()
        clock.now += WINDOW / 6
    assert values == [pytest.approx(0.3)] * 11


@pytest.fixture
def serve():
    sites = Sites()
    yield sites.start
    sites.close()


@pytest.mark.parametrize(
    "answer",
    [
        page_of(GOOD_BODY, b"404 Not Found"),
        page_of(GOOD_BODY, b"500 Oops"),
        page_of(GOOD_BODY, b"302 Found", b"Location: /\r\n"),
        page_of(b"<html>\n" + GOOD_BODY),
        GOOD_BODY,
    ],
)
def test_w68_the_marker_alone_makes_no_healthy_engine(serve, answer):
    port = serve([answer])
    assert HealthPage(f"http://127.0.0.1:{port}{PATH}", 5.0).fetch().health is Health.BAD


def test_w68_an_authority_can_be_named_and_a_wrong_file_is_refused(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate\n")
    with pytest.raises(OptionError):
        HealthPage("https://engine.example/", 5.0, str(tmp_path / "ca.pem"))


def test_w53_measuring_starts_no_program():
    package = Path(__file__).resolve().parents[2] / "ovirt_he_ha" / "broker"
    users = [path.name for path in package.rglob("*.py") if "subprocess" in path.read_text()]
    assert users == []
