"""What this host tells of its own guards: the thread that looks, and what wakes the cycle."""

import errno
import fcntl
import socket
from pathlib import Path
from typing import Any, List

import pytest

from ovirt_he_ha.agent import second_network
from ovirt_he_ha.agent.self_check import VERSIONS, SelfCheck
from ovirt_he_ha.config import host_shutdown
from ovirt_he_ha.config.equality import deployment_digest
from ovirt_he_ha.config.files import HostedEngineConf, save_ha_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import Safeguards
from ovirt_he_ha.lease.daemon_status import DaemonStatus, NoStatus
from tests.agent.clocks import ManualClock


class Bench:
    def __init__(self, root: Path) -> None:
        self.paths = HostPaths(root)
        self.paths.qemu_conf.parent.mkdir(parents=True)
        self.paths.state_dir.mkdir(parents=True)
        self.clock = ManualClock()
        self.woken: List[int] = []
        self.libvirt = "9.0.0"
        self.sanlock: Any = DaemonStatus(True, {}, (), (), version="3.8.5")
        self.check = SelfCheck(
            self.paths,
            Safeguards(deployment="abc"),
            self.clock,  # type: ignore[arg-type]
            lambda: self.libvirt,
            lambda: self.woken.append(1),
            self._ask,
        )

    def _ask(self) -> DaemonStatus:
        if isinstance(self.sanlock, Exception):
            raise self.sanlock
        return self.sanlock  # type: ignore[no-any-return]

    def look(self) -> bool:
        """Whether the cycle was woken."""
        self.woken.clear()
        self.check.look()
        return bool(self.woken)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_lock_manager_that_is_taken_away_wakes_the_cycle_once(bench: Bench) -> None:
    bench.paths.qemu_conf.write_text('lock_manager = "sanlock"\n')
    bench.look()
    assert bench.check.current == Safeguards("sanlock", None, "abc", "", "9.0.0", "3.8.5")
    assert not bench.look()
    bench.paths.qemu_conf.write_text("")
    assert bench.look()
    assert bench.check.current.lock_manager == "off"
    assert not bench.look()


def test_a_maintenance_that_is_asked_for_wakes_the_cycle(bench: Bench) -> None:
    bench.look()
    assert not bench.look()
    save_ha_conf(bench.paths.ha_conf, local_maintenance=True)
    assert bench.look()
    assert not bench.look()
    save_ha_conf(bench.paths.ha_conf, local_maintenance=False)
    assert bench.look()


def test_the_word_that_the_host_goes_down_wakes_the_cycle(bench: Bench) -> None:
    bench.look()
    assert not bench.look()
    host_shutdown.announce(bench.paths, 60.0)
    assert bench.look()
    assert not bench.look()
    host_shutdown.cancel(bench.paths)
    assert bench.look()


def test_versions_follow_an_update_within_a_minute(bench: Bench) -> None:
    bench.look()
    bench.libvirt, bench.sanlock = "10.0.0", NoStatus("refused", "/socket", "nobody listens")
    bench.look()
    assert (bench.check.current.libvirt, bench.check.current.sanlock) == ("9.0.0", "3.8.5")
    bench.clock.now += VERSIONS
    bench.look()
    assert (bench.check.current.libvirt, bench.check.current.sanlock) == ("10.0.0", "")


# --- the second network -------------------------------------------------------------------------------------------


@pytest.fixture
def bridge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """192.0.2.7/24 and 2001:db8::7/64."""
    answers = {0x8915: socket.inet_aton("192.0.2.7"), 0x891B: socket.inet_aton("255.255.255.0")}

    def ioctl(_handle: int, code: int, request: bytes) -> bytes:
        if not request.startswith(b"bridge\0"):
            raise OSError(errno.ENODEV, "no such device")
        return request[:20] + answers[code] + request[24:]

    table = tmp_path / "if_inet6"
    table.write_text("20010db8000000000000000000000007 02 40 00 80   bridge\n" + "00" * 16 + " 01 80 10 80 lo\n")
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    monkeypatch.setattr(second_network, "_IF_INET6", table)


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    ("address", "name", "apart"),
    [
        ("198.51.100.7", "bridge", True),
        ("192.0.2.7", "bridge", False),
        ("192.0.2.99", "bridge", False),
        ("2001:db8::7", "bridge", False),
        ("[2001:db8:0:1::7]", "bridge", True),
        ("host.example", "bridge", None),
        ("", "bridge", None),
        ("198.51.100.7", "absent", None),
        ("2001:db8::7", "absent", None),
    ],
)
def test_whether_migrations_have_a_network_of_their_own(address: str, name: str, apart: object) -> None:
    assert second_network.reaches(address, name) is apart


# --- the deployment's digest --------------------------------------------------------------------------------------


def conf(**changes: Any) -> HostedEngineConf:
    names = "fqdn vmid sd_uuid domain_type vm_disk_id vm_disk_vol_id metadata_image_uuid metadata_volume_uuid "
    names += "lockspace_image_uuid lockspace_volume_uuid conf_image_uuid conf_volume_uuid bridge"
    return HostedEngineConf(**{**dict.fromkeys(names.split(), "x"), "host_id": 1, **changes})


def test_the_digest_follows_what_must_be_equal_and_nothing_else() -> None:
    assert deployment_digest(conf()) == deployment_digest(conf(host_id=2, console="vnc", password="secret"))
    for name in ("fqdn", "vm_disk_vol_id", "storage", "gateway", "network_test", "conf_volume_uuid"):
        assert deployment_digest(conf(**{name: "y"})) != deployment_digest(conf()), name
