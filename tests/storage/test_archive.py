import io
import os
import tarfile
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.storage import archive
from ovirt_he_ha.storage.archive import (
    CAPACITY,
    MEMBERS,
    SIZE,
    ArchiveError,
    build_archive,
    parse_archive,
    read_archive,
    write_archive,
)
from ovirt_he_ha.storage.tar import header

CONTENT = {name: f"content of {name}\n".encode() for name in MEMBERS}


def volume(tmp_path, size=1 << 20, data=b""):
    path = tmp_path / "volume"
    with open(path, "wb") as file:
        file.truncate(size)
        file.write(data)
    return path


def by_tarfile(members, tar_format=tarfile.USTAR_FORMAT, prefix=""):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue().ljust(SIZE, b"\0")


class TestBytes:
    def test_tar_reads_what_we_write(self):
        data = build_archive(CONTENT)
        assert len(data) == SIZE
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert tar.getnames() == list(MEMBERS)
            for info in tar.getmembers():
                assert (info.mode, info.uid, info.gid, info.uname, info.gname, info.mtime) == (0o644, 0, 0, "", "", 0)
                assert tar.extractfile(info).read() == CONTENT[info.name]
        assert data[257:265] == b"ustar\00000"

    @pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    @pytest.mark.parametrize("prefix", ["", "./"])
    def test_we_read_what_tar_writes_in_any_order(self, tar_format, prefix):
        members = dict(reversed(list(CONTENT.items())))
        assert parse_archive(by_tarfile(members, tar_format, prefix)) == CONTENT

    def test_a_later_member_wins(self):
        data = by_tarfile(CONTENT)
        end = data.rstrip(b"\0")
        position = -(-len(end) // 512) * 512
        again = by_tarfile({"version": b"2"})[:1024]
        assert parse_archive((data[:position] + again).ljust(SIZE, b"\0"))["version"] == b"2"

    def test_exactly_full(self):
        members = {**dict.fromkeys(MEMBERS, b""), "vm.conf": b"x" * CAPACITY}
        data = build_archive(members)
        assert len(data) == SIZE
        assert parse_archive(data) == members

    @pytest.mark.parametrize("sizes", [(CAPACITY + 1, 0), (CAPACITY - 511, 1), (1 << 20, 0)])
    def test_too_much(self, sizes):
        members = {**dict.fromkeys(MEMBERS, b""), "vm.conf": b"x" * sizes[0], "version": b"x" * sizes[1]}
        if sizes[0] == CAPACITY - 511:
            build_archive({**members, "vm.conf": b"x" * (CAPACITY - 512)})
        with pytest.raises(ArchiveError) as caught:
            build_archive(members)
        assert caught.value.code == "too-large"

    @pytest.mark.parametrize("members", [{}, {"version": b""}, {**CONTENT, "more": b""}])
    def test_exactly_the_five_members(self, members):
        with pytest.raises(ArchiveError) as caught:
            build_archive(members)
        assert caught.value.code == "member-missing"

    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (bytes(SIZE), "empty"),
            (b"", "empty"),
            (b"\xff" * SIZE, "not-an-archive"),
            (build_archive({**CONTENT, "version": bytes(30)})[:520], "truncated"),
            (header("vm.conf", 30000) + bytes(SIZE - 512), "truncated"),
            (by_tarfile({"version": b"1"}), "member-missing"),
        ],
    )
    def test_what_is_no_archive(self, data, code):
        with pytest.raises(ArchiveError) as caught:
            parse_archive(data)
        assert caught.value.code == code

    @given(st.binary(max_size=4096))
    def test_any_bytes_are_read_safely(self, data):
        with pytest.raises(ArchiveError):
            parse_archive(data)

    @given(st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 255)), max_size=6))
    def test_any_damage_is_read_safely(self, damage):
        data = bytearray(build_archive(CONTENT))
        for position, value in damage:
            data[position] = value
        try:
            assert set(MEMBERS) <= set(parse_archive(bytes(data)))
        except ArchiveError as error:
            assert error.code in ("not-an-archive", "truncated", "member-missing")

    @given(st.fixed_dictionaries({name: st.binary(max_size=2500) for name in MEMBERS}))
    def test_there_and_back(self, members):
        assert parse_archive(build_archive(members)) == members


class TestVolume:
    def test_there_and_back_without_truncation(self, tmp_path):
        path = volume(tmp_path, size=1 << 20)
        with open(path, "r+b") as file:
            file.seek(SIZE)
            file.write(b"behind")
        write_archive(path, CONTENT)
        assert read_archive(path) == CONTENT
        assert path.stat().st_size == 1 << 20
        assert path.read_bytes()[SIZE : SIZE + 6] == b"behind"
        assert os.listdir(tmp_path) == ["volume"]

    @pytest.mark.parametrize(("size", "code"), [(SIZE - 512, "too-small"), (0, "too-small")])
    def test_too_small(self, tmp_path, size, code):
        path = volume(tmp_path, size)
        for access in (lambda: read_archive(path), lambda: write_archive(path, CONTENT)):
            with pytest.raises(ArchiveError) as caught:
                access()
            assert caught.value.code == code
            assert caught.value.path == str(path)
        assert path.stat().st_size == size

    def test_missing(self, tmp_path):
        with pytest.raises(ArchiveError) as caught:
            write_archive(tmp_path / "absent", CONTENT)
        assert caught.value.code == "missing"
        assert os.listdir(tmp_path) == []

    def test_something_else_is_not_overwritten(self, tmp_path):
        path = volume(tmp_path, data=b"precious data")
        with pytest.raises(ArchiveError) as caught:
            write_archive(path, CONTENT)
        assert caught.value.code == "not-an-archive"
        assert path.read_bytes().startswith(b"precious data")
        write_archive(path, CONTENT, force=True)
        assert read_archive(path) == CONTENT

    def test_a_change_by_another_host_is_noticed(self, tmp_path):
        path = volume(tmp_path)
        write_archive(path, CONTENT)
        seen = read_archive(path)
        write_archive(path, {**CONTENT, "broker.conf": b"theirs"})
        with pytest.raises(ArchiveError) as caught:
            write_archive(path, {**seen, "broker.conf": b"ours"}, previous=seen)
        assert caught.value.code == "changed"
        assert read_archive(path)["broker.conf"] == b"theirs"

    def test_of_two_that_compared_in_the_same_moment_the_overwritten_one_learns_it(self, tmp_path, monkeypatch):
        path = volume(tmp_path)
        write_archive(path, CONTENT)
        theirs = {**CONTENT, "broker.conf": b"theirs"}
        real = time.sleep

        def meanwhile(seconds):
            monkeypatch.setattr(archive.time, "sleep", real)
            write_archive(path, theirs)

        monkeypatch.setattr(archive.time, "sleep", meanwhile)
        with pytest.raises(ArchiveError) as caught:
            write_archive(path, {**CONTENT, "broker.conf": b"ours"}, previous=CONTENT, settle=1.0)
        assert caught.value.code == "changed"
        assert read_archive(path) == theirs

    def test_content_that_does_not_fit_changes_nothing(self, tmp_path):
        path = volume(tmp_path)
        write_archive(path, CONTENT)
        with pytest.raises(ArchiveError) as caught:
            write_archive(path, {**CONTENT, "vm.conf": b"x" * SIZE})
        assert caught.value.code == "too-large"
        assert read_archive(path) == CONTENT

    def test_a_write_that_did_not_stick_is_said(self, tmp_path, monkeypatch):
        path = volume(tmp_path)
        monkeypatch.setattr(archive, "direct_write", lambda *_: None)
        with pytest.raises(ArchiveError) as caught:
            write_archive(path, CONTENT)
        assert caught.value.code == "not-written"
