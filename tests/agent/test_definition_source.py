import time
from pathlib import Path
from typing import List, Sequence

import pytest

from ovirt_he_ha.agent.definition_source import DefinitionSource, StartRefused
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.hypervisor.custom_definition import Custom
from ovirt_he_ha.lab.definition import ELEMENTS, vm_conf
from ovirt_he_ha.lab.layout import Lab
from tests.agent.clocks import ManualClock


class Bench:
    """A definition as the lab writes it, and the volume's answer as the test wants it."""

    def __init__(self, tmp_path: Path, lab: Lab) -> None:
        self.text = vm_conf(lab)
        self.broken = False
        self.said: List[str] = []
        self.effective = tmp_path / "vm.conf"
        self.fallback = tmp_path / "vm.conf.fallback"
        disk = lab.identity.disk
        path = f"{lab.volume_path(disk)}.lease"
        self.lease = LeaseId(lab.identity.domain, disk.volume, path, 0)
        self.vmid = lab.identity.vm

    def source(self, reserved: Sequence[str] = ()) -> DefinitionSource:
        return DefinitionSource(
            self._read,
            self.lease,
            self.vmid,
            self.effective,
            self.fallback,
            ManualClock(),
            lambda: self.said.append("changed"),
            lambda: self.said.append("rests"),
            custom=lambda: Custom(frozenset(ELEMENTS)),
            reserved=reserved,
        )

    def _read(self) -> str:
        self.said.append("read")
        if self.broken:
            raise OSError(5, "Input/output error")
        return self.text


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Lab(str(tmp_path / "lab"), 1, 1.0, "10.77.0.0/24", "10.77.1.0/24", "python3", ""))


def test_s1_before_the_first_read_nothing_may_start(bench: Bench) -> None:
    with pytest.raises(StartRefused) as e:
        bench.source().definition()
    assert e.value.problem == "no-definition"


def test_the_definition_of_the_volume_is_checked_and_kept_for_the_command_line(bench: Bench) -> None:
    source = bench.source()
    source.refresh()
    assert source.current.problem == ""
    assert source.current.memory_mib > 0
    assert source.definition().lease == bench.lease
    head, _, body = bench.effective.read_text().partition("\n\n")
    assert body == bench.text
    assert all(line.startswith("#") for line in head.splitlines())
    assert bench.fallback.read_text() == bench.text


def test_an_unchanged_definition_is_not_written_again(bench: Bench) -> None:
    source = bench.source()
    source.refresh()
    before = bench.effective.stat().st_ino
    source.refresh()
    assert bench.effective.stat().st_ino == before


def test_while_the_volume_cannot_be_read_the_last_good_one_stays(bench: Bench) -> None:
    source = bench.source()
    source.refresh()
    bench.broken = True
    source.refresh()
    assert source.definition().xml


def test_after_a_restart_the_copy_on_this_host_is_used(bench: Bench) -> None:
    bench.source().refresh()
    bench.effective.unlink()
    bench.broken = True
    source = bench.source()
    source.refresh()
    assert source.definition().xml


def test_s1_a_definition_of_another_lease_is_refused_and_named(bench: Bench) -> None:
    bench.lease = LeaseId(bench.lease.lockspace, "another", bench.lease.path, 0)
    source = bench.source()
    source.refresh()
    with pytest.raises(StartRefused):
        source.definition()
    assert source.current.detail


def test_a_volume_of_the_hosts_is_no_disk_of_the_vm(bench: Bench) -> None:
    source = bench.source(reserved=(bench.lease.key,))
    source.refresh()
    assert source.current.problem == "disk-location"
    with pytest.raises(StartRefused):
        source.definition()


def test_text_that_is_no_vm_conf_is_named(bench: Bench) -> None:
    bench.text = "memSize=\n"
    source = bench.source()
    source.refresh()
    assert source.current.problem == "vm-conf"


@pytest.mark.parametrize("good", [True, False])
def test_only_a_good_definition_is_left_alone_for_a_minute(bench: Bench, good: bool) -> None:
    if not good:
        bench.text = "vmId=x"
    source = bench.source()
    source.start()
    until = time.monotonic() + 10
    expected = ["read", "changed", "rests"] if good else ["read", "changed"]
    while bench.said != expected and time.monotonic() < until:
        time.sleep(0.01)
    assert bench.said == expected
    source.stop()
