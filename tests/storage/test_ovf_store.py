"""Finding the newest OVF_STORE, and the VM's OVF in it, whatever the bytes are."""

import os
import tarfile
from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.storage.domain_files import FilesHere
from ovirt_he_ha.storage.errors import StorageOverdue
from ovirt_he_ha.storage.io_process import VolumeLook
from ovirt_he_ha.storage.ovf_store import (
    Description,
    OvfStoreError,
    OvfStores,
    StoreVolume,
    description,
    newest_first,
    read_ovf,
)
from tests.storage.engine_ovf import meta, store, write_store

VM = "11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"


class Memory:
    """A volume of any bytes, and how much of it was read."""

    def __init__(self, data):
        self.data = data
        self.reads = []

    def look(self, path):
        return VolumeLook(len(self.data), 512, False)

    def read(self, path, offset, length):
        assert offset % 4096 == length % 4096 == 0
        assert 0 < length <= 1 << 20
        self.reads.append(length)
        data = self.data[offset : offset + length]
        assert len(data) == length
        return data


def padded(data):
    return data.ljust(-(-len(data) // 4096) * 4096, b"\0")


def read(data, size=0, vm=VM):
    files = Memory(padded(data))
    return read_ovf(files, StoreVolume("/store", Description(size=size)), vm)


def refused(data, size=0):
    with pytest.raises(OvfStoreError) as error:
        read(data, size)
    assert "/store" in str(error.value)
    return error.value.code


class TestDescriptions:
    def test_an_ovf_store(self):
        found = description(meta(size=23040))
        assert found == Description(True, 23040, (2026, 11, 10, 14, 36, 8))

    @pytest.mark.parametrize(
        ("date", "expected"),
        [
            ("Tue Nov 10 14:36:08 IST 2026", (2026, 11, 10, 14, 36, 8)),
            ("2026-11-10T14:36:08Z", (2026, 11, 10, 14, 36, 8)),
            (1794321368, (2026, 11, 10, 14, 36, 8)),
            (1794321368000, (2026, 11, 10, 14, 36, 8)),
            ("yesterday", ()),
            ("Tue Foo 10 14:36:08 IST 2026", ()),
            (None, ()),
            (True, ()),
        ],
    )
    def test_dates(self, date, expected):
        assert description(meta(date=date)).date == expected

    @pytest.mark.parametrize(
        "metadata",
        [
            b"",
            b"DESCRIPTION=\n",
            b'DESCRIPTION={"DiskAlias":"HostedEngineConfigurationImage"}\n',
            b"DESCRIPTION={not json}\n",
            b"DESCRIPTION=" + b"[" * 50000 + b"\n",
            b"DESCRIPTION={" + b'"a":{' * 9000 + b"}" * 9001 + b"\n",
            meta(kind="other"),
            b"\xff\xfe" + meta(),
        ],
    )
    def test_what_is_none(self, metadata):
        found = description(metadata)
        assert found is None or found.size == 0

    @pytest.mark.parametrize("size", [-1, 0, "many", 1 << 60, None, True, 1.5])
    def test_a_size_that_cannot_be_is_not_known(self, size):
        assert description(meta(size=size)).size == 0

    @given(st.binary(max_size=2000))
    def test_any_bytes(self, data):
        description(data)
        description(b"DESCRIPTION={" + data + b"}")

    def test_the_newest_is_first_and_an_unfinished_one_last(self):
        volumes = [
            StoreVolume("old", Description(True, 0, (2026, 1, 1, 0, 0, 0))),
            StoreVolume("undated", Description()),
            StoreVolume("unfinished", Description(False, 0, (2026, 3, 1, 0, 0, 0))),
            StoreVolume("new", Description(True, 0, (2026, 2, 1, 0, 0, 0))),
        ]
        assert [each.path for each in newest_first(volumes)] == ["new", "old", "undated", "unfinished"]


class TestArchives:
    def test_the_vms_member_is_found_by_its_id(self):
        data = store({"info.json": b"{}", f"{OTHER}.ovf": b"o" * 3000, f"{VM}.ovf": b"the one"})
        assert read(data) == b"the one"
        assert read(data, len(data)) == b"the one"
        assert read(data, vm=OTHER) == b"o" * 3000

    def test_as_other_tools_write_it(self):
        out = BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in ((f"./{OTHER}.ovf", b"x" * 70000), (f"./{VM}.ovf", b"y" * 90000)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                info.pax_headers = {"comment": "c" * 600}
                archive.addfile(info, BytesIO(content))
        assert read(out.getvalue()) == b"y" * 90000

    def test_one_read_is_enough_for_a_small_domain(self):
        files = Memory(bytearray(padded(store({f"{VM}.ovf": b"x" * 20000})).ljust(1 << 20, b"\0")))
        assert len(read_ovf(files, StoreVolume("/store", Description()), VM)) == 20000
        assert files.reads == [64 << 10]

    def test_a_thousand_vms(self):
        members = {f"{number:08d}-2222-3333-4444-555555555555.ovf": b"x" * 15000 for number in range(1000)}
        files = Memory(padded(store({**members, f"{VM}.ovf": b"here"})))
        assert read_ovf(files, StoreVolume("/store", Description()), VM) == b"here"
        assert sum(files.reads) < len(files.data) * 1.2

    def test_what_is_wrong_is_named(self):
        whole = store({f"{VM}.ovf": b"x" * 30000})
        assert refused(bytes(8192)) == "no-ovf"
        assert refused(store({f"{OTHER}.ovf": b"x"})) == "no-ovf"
        assert refused(b"no archive" * 500) == "not-an-archive"
        assert refused(whole[:8192]) == "cut-off"
        assert refused(whole, 8192) == "cut-off"
        assert refused(store({f"{VM}.ovf": b"x" * ((1 << 20) + 1)})) == "too-large"
        assert refused(b"") == "no-ovf"

    @given(st.binary(max_size=9000))
    def test_any_bytes(self, data):
        with pytest.raises(OvfStoreError):
            read(data)

    @given(st.data())
    def test_torn_archives(self, data):
        whole = bytearray(padded(store({f"{OTHER}.ovf": b"x" * 900, f"{VM}.ovf": b"y" * 900})))
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + 40] = data.draw(st.binary(min_size=40, max_size=40))
        try:
            found = read(bytes(whole[:8192]))
        except OvfStoreError:
            return
        assert len(found) <= 1 << 20


class TestDomains:
    def find(self, tmp_path):
        return [each.path for each in OvfStores(str(tmp_path)).newest_first(FilesHere())]

    def test_two_stores_among_other_volumes(self, tmp_path):
        old = write_store(tmp_path, 1, {f"{VM}.ovf": b"old"}, date="Tue Nov 10 14:36:08 UTC 2026")
        new = write_store(tmp_path, 2, {f"{VM}.ovf": b"new"}, date="Tue Nov 10 14:36:09 UTC 2026")
        write_store(tmp_path, 3, {}, kind="other")
        (tmp_path / "lost+found").mkdir()
        (tmp_path / "file").write_text("x")
        assert self.find(tmp_path) == [str(new), str(old)]
        first = OvfStores(str(tmp_path)).newest_first(FilesHere())[0]
        assert read_ovf(FilesHere(), first, VM) == b"new"

    def test_the_order_is_looked_at_each_time_and_the_search_made_once(self, tmp_path, monkeypatch):
        one = write_store(tmp_path, 1, {}, date="2026-01-01T00:00:00")
        two = write_store(tmp_path, 2, {}, date="2026-01-02T00:00:00")
        stores, files = OvfStores(str(tmp_path)), FilesHere()
        assert [each.path for each in stores.newest_first(files)] == [str(two), str(one)]
        searched = []
        monkeypatch.setattr(FilesHere, "names", lambda self, path: searched.append(path) or [])
        write_store(tmp_path, 1, {}, date="2026-01-03T00:00:00")
        assert [each.path for each in stores.newest_first(files)] == [str(one), str(two)]
        assert searched == []
        stores.forget()
        with pytest.raises(OvfStoreError):
            stores.newest_first(files)
        assert searched == [str(tmp_path)]

    def test_a_search_that_is_slower_than_a_look_may_be_goes_on_with_the_next(self, tmp_path):
        """500 images on a storage that answers 60 requests in the time of a look."""

        class Slow(FilesHere):
            left = 0

            def counted(self):
                self.left -= 1
                if self.left < 0:
                    raise StorageOverdue("overdue", "/images")

            def names(self, path):
                self.counted()
                return super().names(path)

            def text(self, path):
                self.counted()
                return super().text(path)

        for number in range(500):
            image = tmp_path / f"{number:08d}-0000-4000-8000-0000000000ff"
            image.mkdir()
            (image / "volume.meta").write_bytes(b"DESCRIPTION=disk\n")
        path = write_store(tmp_path, 7, {"x.ovf": b"x"})
        stores, files = OvfStores(str(tmp_path)), Slow()
        looks, found = 0, []
        while not found and looks < 20:
            looks, files.left = looks + 1, 60
            with suppress(StorageOverdue):
                found = stores.newest_first(files)
        assert [each.path for each in found] == [str(path)] and looks > 10
        files.left = 2
        assert stores.newest_first(files) == found

    def test_a_domain_without_one(self, tmp_path):
        with pytest.raises(OvfStoreError) as error:
            self.find(tmp_path)
        assert error.value.code == "no-store"
        with pytest.raises(OvfStoreError) as error:
            self.find(tmp_path / "nothing")
        assert (error.value.code, error.value.path) == ("missing", str(tmp_path / "nothing"))

    def test_a_volume_that_cannot_be_read_is_named(self, tmp_path):
        volume = write_store(tmp_path, 1, {f"{VM}.ovf": b"x"})
        found = OvfStores(str(tmp_path)).newest_first(FilesHere())[0]
        os.unlink(volume)
        with pytest.raises(OvfStoreError) as error:
            read_ovf(FilesHere(), found, VM)
        assert (error.value.code, error.value.path) == ("missing", str(volume))
