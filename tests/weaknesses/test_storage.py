"""W-30 to W-34 and W-55: the domain's directory, the configuration archive, the OVF_STORE volumes."""

import io
import os
import tarfile
import time

import pytest

from ovirt_he_ha.storage import archive
from ovirt_he_ha.storage.archive import AREA, MEMBERS, SIZE, ArchiveError, parse_archive, read_archive, write_archive
from ovirt_he_ha.storage.domain_files import FilesHere
from ovirt_he_ha.storage.io_process import direct_read
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.ovf_store import OvfStores
from tests.storage.engine_ovf import write_store

CONTENT = {name: f"content of {name}\n".encode() for name in MEMBERS}
IMAGE, VOLUME = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


@pytest.fixture
def volume(tmp_path):
    """Where a host finds its configuration volume: by the identifiers of its own configuration alone."""
    path = LocalDomain(str(tmp_path), "sd").volume_path(IMAGE, VOLUME)
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    write_archive(path, CONTENT)
    return path


def tar(names):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            file.addfile(info, io.BytesIO(b"x"))
    return out.getvalue()[:SIZE].ljust(SIZE, b"\0")


def test_w31_a_change_leaves_the_volume_as_long_as_it_was(volume):
    before = os.stat(volume).st_size
    write_archive(volume, {**CONTENT, "broker.conf": b"new"}, previous=CONTENT)
    assert os.stat(volume).st_size == before
    assert read_archive(volume)["broker.conf"] == b"new"


def test_w31_a_change_on_another_host_meanwhile_is_noticed(volume):
    write_archive(volume, {**CONTENT, "broker.conf": b"theirs"})
    with pytest.raises(ArchiveError) as caught:
        write_archive(volume, {**CONTENT, "broker.conf": b"ours"}, previous=CONTENT)
    assert caught.value.code == "changed"


def test_w31_of_two_changes_in_the_same_moment_one_host_is_told_that_it_lost(volume, monkeypatch):
    def meanwhile(seconds):
        archive.direct_write(str(volume), 0, archive.build_archive({**CONTENT, "broker.conf": b"theirs"}))

    monkeypatch.setattr(time, "sleep", meanwhile)
    with pytest.raises(ArchiveError) as caught:
        write_archive(volume, {**CONTENT, "broker.conf": b"ours"}, previous=CONTENT, settle=1.0)
    assert caught.value.code == "changed"


def test_w32_a_change_reads_the_archive_and_not_the_volume(volume, monkeypatch):
    lengths = []

    def counted(path, offset, length):
        lengths.append(length)
        return direct_read(path, offset, length)

    monkeypatch.setattr(archive, "direct_read", counted)
    write_archive(volume, {**CONTENT, "broker.conf": b"new"}, previous=CONTENT)
    assert set(lengths) == {AREA}  # with the copy that is kept: 56 KiB of 1 GiB
    assert len(lengths) <= 3


def test_w33_the_path_of_a_volume_needs_nobody_and_no_link(volume, tmp_path):
    found = LocalDomain(str(tmp_path), "sd").volume_path(IMAGE, VOLUME)
    assert isinstance(found, str)
    assert read_archive(found) == CONTENT
    assert not any(os.path.islink(os.path.join(where, name)) for where, _, names in os.walk(tmp_path) for name in names)


@pytest.mark.parametrize("missing", MEMBERS)
def test_w34_a_name_within_another_name_is_no_member(missing):
    names = [name for name in MEMBERS if name != missing]
    assert parse_archive(tar([*names, missing]))
    with pytest.raises(ArchiveError) as caught:
        parse_archive(tar([*names, f"old-{missing}.bak"]))
    assert caught.value.code == "member-missing"


@pytest.mark.parametrize("newest", [1, 2])
def test_w55_of_two_ovf_stores_the_newest_wins_wherever_it_lies(tmp_path, newest):
    for number in (1, 2):
        write_store(tmp_path, number, {}, date=f"2026-01-0{2 if number == newest else 1}T00:00:00")
    first = OvfStores(str(tmp_path)).newest_first(FilesHere())[0]
    assert f"/{newest:08d}-" in first.path
