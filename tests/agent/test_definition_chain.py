"""Which of several definitions is used, and what happens when one of them is away, broken or unsafe."""

import base64
import re
from pathlib import Path
from typing import Iterator, List, Optional

import pytest

from ovirt_he_ha.agent import definition_source
from ovirt_he_ha.agent.definition_source import DefinitionSource, StartRefused
from ovirt_he_ha.agent.shared_storage import OvfCandidate
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.hypervisor.custom_definition import Custom
from ovirt_he_ha.lab.definition import ELEMENTS, domain_xml
from ovirt_he_ha.lab.layout import Lab
from ovirt_he_ha.storage.ovf_store import OvfStoreError
from tests.agent.clocks import ManualClock
from tests.agent.test_definition_source import Bench as ArchiveBench
from tests.storage.engine_ovf import ovf

SHARED = """<metadata><o:vm xmlns:o='http://ovirt.org/vm/1.0'><o:device devtype='disk' name='vda'>
<o:shared>exclusive</o:shared></o:device></o:vm></metadata><devices>"""


class Bench(ArchiveBench):
    """OVF_STOREs as the test wants them, newest first."""

    def __init__(self, tmp_path: Path, lab: Lab) -> None:
        super().__init__(tmp_path, lab)
        self.lab = lab
        self.xml = domain_xml(lab).replace("<devices>", SHARED)
        self.stores: List[OvfCandidate] = []
        self.failure: Optional[Exception] = None
        self.custom = Custom(frozenset(ELEMENTS))
        self.clock = ManualClock()

    def source(self) -> DefinitionSource:
        return DefinitionSource(
            self._read,
            self.lease,
            self.vmid,
            self.effective,
            self.fallback,
            self.clock,
            lambda: self.said.append("changed"),
            lambda: self.said.append("rests"),
            self._ovfs,
            self._custom,
        )

    def ovf(self, memory: int, xml: Optional[str] = None, vm: str = "") -> bytes:
        disk = self.lab.identity.disk
        return ovf(
            vm or self.vmid, self.lab.identity.domain, disk.image, disk.volume, xml or self.xml, memory=str(memory)
        )

    def store(self, number: int, data: bytes) -> OvfCandidate:
        return OvfCandidate(f"/images/{number}", data)

    def _ovfs(self) -> Iterator[OvfCandidate]:
        self.said.append("ovfs")
        if self.failure is not None:
            raise self.failure
        if not self.stores:
            raise OvfStoreError("no-store", "/images", "none")
        yield from self.stores

    def _custom(self) -> Custom:
        if self.custom.source == "unreadable":
            raise ConfigError("/etc/extra.xml", "", "a readable file", "no such file")
        return self.custom


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Lab(str(tmp_path / "lab"), 1, 1.0, "10.77.0.0/24", "10.77.1.0/24", "python3", ""))


def refreshed(bench: Bench) -> DefinitionSource:
    source = bench.source()
    source.refresh()
    return source


def test_the_newest_store_comes_before_the_older_and_the_archive(bench: Bench) -> None:
    bench.stores = [bench.store(2, bench.ovf(2048)), bench.store(1, bench.ovf(1024))]
    source = refreshed(bench)
    assert (source.current.problem, source.current.memory_mib) == ("", 2048)
    assert source.current.origin == "/images/2"
    assert "read" not in bench.said
    text = bench.effective.read_text()
    assert "/images/2" in text
    assert "memSize=2048\n" in text


def test_without_a_store_the_archive_is_used(bench: Bench) -> None:
    assert refreshed(bench).current.memory_mib == 256


def test_a_changed_ovf_takes_effect_and_only_a_changed_one_is_worked_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.stores = [bench.store(1, bench.ovf(1024))]
    source = refreshed(bench)
    made: List[object] = []
    engine_xml = definition_source.engine_xml
    monkeypatch.setattr(definition_source, "engine_xml", lambda *a, **k: made.append(a) or engine_xml(*a, **k))
    written = bench.effective.stat()
    bench.clock.now += 60.0
    source.refresh()
    assert made == []
    assert bench.effective.stat() == written
    assert source.current.refreshed_at == int(bench.clock.now)
    bench.stores = [bench.store(1, bench.ovf(4096))]
    source.refresh()
    assert len(made) == 1
    assert source.current.memory_mib == 4096
    assert bench.effective.stat().st_ino != written.st_ino


BROKEN = {
    "no XML": b"x" * 100,
    "hostile": b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>",
    "empty": b"",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_newest_store_is_left_aside(bench: Bench, data: bytes) -> None:
    bench.stores = [bench.store(2, data), bench.store(1, bench.ovf(1024))]
    assert refreshed(bench).current.origin == "/images/1"


def test_a_store_that_cannot_be_read_or_is_another_vms_is_left_aside(bench: Bench) -> None:
    cut = OvfCandidate("/images/3", b"", OvfStoreError("cut-off", "/images/3", "cut off"))
    other = bench.store(2, bench.ovf(512, vm="99999999-2222-3333-4444-555555555555"))
    bench.stores = [cut, other, bench.store(1, bench.ovf(1024))]
    assert refreshed(bench).current.memory_mib == 1024


UNSAFE = {
    "no lease": (r"(?s)<lease>.*</lease>", "", "no-xml", "devices/lease"),
    "other lease": (r"<key>.*</key>", "<key>other</key>", "foreign-lease", "devices/lease"),
    "qcow2": (r"type='raw'", "type='qcow2'", "qcow2", "vda"),
    "elsewhere": (r"<source file='[^']*'", "<source file='/tmp/disk'", "disk-location", "vda"),
    "not exclusive": ("exclusive", "none", "no-xml", "shared"),
}


@pytest.mark.parametrize(("old", "new", "code", "element"), UNSAFE.values(), ids=UNSAFE.keys())
def test_s1_an_unsafe_ovf_starts_nothing_and_its_element_is_named(
    bench: Bench, old: str, new: str, code: str, element: str
) -> None:
    xml, count = re.subn(old, new, bench.xml)
    assert count
    bench.stores = [bench.store(2, bench.ovf(2048, xml))]
    bench.broken = True  # the archive cannot be read
    source = refreshed(bench)
    with pytest.raises(StartRefused) as error:
        source.definition()
    assert error.value.problem == code
    assert element in error.value.detail
    bench.stores.append(bench.store(1, bench.ovf(1024)))
    source.refresh()
    assert source.current.memory_mib == 1024


def test_an_unsafe_ovf_does_not_push_out_the_good_one_before_it(bench: Bench) -> None:
    bench.stores = [bench.store(1, bench.ovf(1024))]
    source = refreshed(bench)
    bench.stores = [bench.store(1, bench.ovf(2048, bench.xml.replace("'raw'", "'qcow2'")))]
    source.refresh()
    assert (source.current.problem, source.current.memory_mib) == ("", 1024)


def test_while_the_stores_cannot_be_read_the_last_good_one_stays_even_over_a_restart(bench: Bench) -> None:
    bench.stores = [bench.store(1, bench.ovf(1024))]
    source = refreshed(bench)
    bench.failure = OSError(5, "Input/output error")
    source.refresh()
    assert source.current.memory_mib == 1024
    assert refreshed(bench).current.memory_mib == 1024
    bench.effective.unlink()
    assert refreshed(bench).current.memory_mib == 256  # the archive's


def test_a_copy_of_the_archives_does_not_hide_a_change_of_the_archive(bench: Bench) -> None:
    refreshed(bench)
    bench.text = bench.text.replace("memSize=256", "memSize=300")
    bench.failure = OSError(5, "Input/output error")
    assert refreshed(bench).current.memory_mib == 300


def test_a_start_takes_what_was_changed_a_moment_ago(bench: Bench) -> None:
    bench.stores = [bench.store(1, bench.ovf(1024))]
    source = refreshed(bench)
    bench.stores = [bench.store(1, bench.ovf(4096))]
    source.definition()
    assert source.current.memory_mib == 1024
    bench.clock.now += 6.0
    source.definition()
    assert source.current.memory_mib == 4096
    assert bench.said[-1] == "rests"


def test_what_the_administrator_adds_takes_effect_with_the_next_look(bench: Bench) -> None:
    bench.stores = [bench.store(1, bench.ovf(1024))]
    source = refreshed(bench)
    assert "memoryBacking" not in source.current.xml
    extra = "<domain><memoryBacking><locked/></memoryBacking></domain>"
    bench.custom = Custom(frozenset([*ELEMENTS, "memoryBacking"]), extra, "/etc/extra.xml")
    source.refresh()
    assert "<memoryBacking>" in source.current.xml
    bench.custom = Custom(frozenset(ELEMENTS), extra, "/etc/extra.xml")
    bench.broken = True
    bench.effective.unlink()
    fresh = refreshed(bench)
    assert fresh.current.problem == "extra-xml"
    assert "memoryBacking" in fresh.current.detail
    bench.custom = Custom(source="unreadable")
    source.refresh()
    assert source.current.problem == "extra-xml"


def test_no_definition_is_half_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    refreshed(bench)
    before = sorted(bench.effective.parent.iterdir())
    text = bench.effective.read_text()
    bench.stores = [bench.store(1, bench.ovf(1024))]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    source = refreshed(bench)
    assert source.current.memory_mib == 1024
    assert bench.effective.read_text() == text
    assert sorted(bench.effective.parent.iterdir()) == before


def test_the_xml_of_the_ovf_is_what_starts(bench: Bench) -> None:
    bench.stores = [bench.store(1, bench.ovf(1024))]
    source = refreshed(bench)
    encoded = re.search(r"^xmlBase64=(.*)$", bench.effective.read_text(), re.MULTILINE)
    assert encoded is not None
    assert b"HostedEngine" in base64.b64decode(encoded.group(1))
    assert "urn:ovirt-he-ha:engine:1" in source.definition().xml
