import os
import socket
import subprocess

import pytest

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.storage import volumes
from ovirt_he_ha.storage.domain_files import FilesHere
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.io_process import IoFailure, VolumeLook
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.volumes import (
    MIB,
    SCANNED,
    DomainVolumes,
    VolumeName,
    VolumeSizes,
    check_volume,
    create_domain,
    create_volume,
)

SD = "11111111-0000-4000-8000-000000000000"
NAMES = DomainVolumes(VolumeName("i1", "v1"), VolumeName("i2", "v2"), VolumeName("i3", "v3"), VolumeName("i4", "v4"))
LARGE_SECTORS = VolumeLook(8192, 4096, True)
SIZES = VolumeSizes(metadata=SCANNED, lockspace=MIB, configuration=MIB, disk=MIB, lease=MIB)


def make(tmp_path, **options):
    create_domain(str(tmp_path), SD, NAMES, SIZES, owner=None, **options)
    return LocalDomain(str(tmp_path), SD)


def tree(directory):
    return sorted(
        (os.path.relpath(os.path.join(where, name), directory), os.path.getsize(os.path.join(where, name)))
        for where, _, names in os.walk(directory)
        for name in names
    )


def problem(call):
    with pytest.raises(DomainProblem) as caught:
        call()
    assert caught.value.object in str(caught.value)
    return caught.value.code


class TestPaths:
    def test_the_layout(self):
        domain = LocalDomain("/srv/he", SD)
        assert domain.directory == f"/srv/he/{SD}"
        assert domain.ids_path == f"/srv/he/{SD}/dom_md/ids"
        assert domain.volume_path("img", "vol") == f"/srv/he/{SD}/images/img/vol"
        assert domain.lease("img", "vol") == LeaseId(SD, "vol", f"/srv/he/{SD}/images/img/vol.lease", 0)

    def test_a_slash_at_the_end_changes_no_lease(self):
        assert LocalDomain("/srv/he/", SD).lease("i", "v") == LocalDomain("/srv/he", SD).lease("i", "v")


class TestCreate:
    def test_what_is_made(self, tmp_path):
        domain = make(tmp_path)
        names = [name for name, _ in tree(domain.directory)]
        assert names == sorted(
            ["dom_md/ids", "dom_md/leases", "dom_md/metadata"]
            + [f"images/i{number}/v{number}{end}" for number in range(1, 5) for end in ("", ".lease")]
        )
        metadata = domain.volume_path("i1", "v1")
        assert os.path.getsize(metadata) == SCANNED
        assert os.stat(metadata).st_mode & 0o777 == 0o660
        domain.verify()
        assert domain.sector_size() == 512

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    def test_the_owner(self, tmp_path):
        create_domain(str(tmp_path), SD, NAMES, SIZES)
        for where, directories, names in os.walk(tmp_path / SD):
            for name in [*directories, *names]:
                status = os.stat(os.path.join(where, name))
                assert (status.st_uid, status.st_gid) == (36, 36), name

    def test_no_disk_by_default(self, tmp_path):
        create_domain(str(tmp_path), SD, NAMES, VolumeSizes(SCANNED, MIB, MIB, None, MIB), owner=None)
        assert os.listdir(tmp_path / SD / "images" / "i4") == ["v4.lease"]

    def test_stale_bytes_where_slots_are_read_are_gone(self, tmp_path):
        path = tmp_path / "volume"
        path.write_bytes(b"\xff" * (SCANNED + 10))
        create_volume(str(path), SCANNED + MIB, None, force=True, zeroed=SCANNED)
        data = path.read_bytes()
        assert data[:SCANNED] == bytes(SCANNED)
        assert data[SCANNED : SCANNED + 10] == b"\xff" * 10
        assert len(data) == SCANNED + MIB

    def test_an_existing_volume_is_never_made_smaller(self, tmp_path):
        path = tmp_path / "volume"
        path.write_bytes(bytes(4 * MIB))
        create_volume(str(path), MIB, None)
        assert path.stat().st_size == 4 * MIB

    def test_a_used_volume_is_refused_before_anything_is_made(self, tmp_path):
        used = tmp_path / SD / "images" / "i3"
        used.mkdir(parents=True)
        (used / "v3").write_bytes(bytes(1000) + b"x")
        before = tree(tmp_path)
        assert problem(lambda: make(tmp_path)) == "in-use"
        assert tree(tmp_path) == before
        make(tmp_path, force=True).verify()

    def test_a_second_domain_in_the_same_place_is_refused(self, tmp_path):
        make(tmp_path)
        assert problem(lambda: make(tmp_path)) == "in-use"

    def test_links_and_directories_are_refused(self, tmp_path):
        (tmp_path / "link").symlink_to("elsewhere")
        for place in (tmp_path / "link", tmp_path):
            assert problem(lambda place=place: create_volume(str(place), MIB, None)) == "in-use"
        assert not (tmp_path / "elsewhere").exists()

    def test_what_it_holds_is_named(self, tmp_path):
        path = tmp_path / "volume"
        path.write_bytes(b"QFI\xfb".ljust(MIB, b"\0"))
        with pytest.raises(DomainProblem) as caught:
            create_volume(str(path), MIB, None)
        assert caught.value.code == "in-use" and "qcow2" in str(caught.value)
        assert path.read_bytes()[:4] == b"QFI\xfb"

    @pytest.mark.parametrize("kind", ["fifo", "socket"])
    def test_force_does_not_write_to_what_is_no_volume(self, tmp_path, kind):
        path = tmp_path / "thing"
        if kind == "fifo":
            os.mkfifo(path)
        else:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(path))
            listening.close()
        assert problem(lambda: create_volume(str(path), MIB, None, force=True)) in ("not-a-volume", "missing")

    def test_a_device_that_is_not_there_is_not_made(self):
        assert problem(lambda: create_volume("/dev/he-no-such-volume", MIB, None, force=True)) == "missing"
        assert not os.path.lexists("/dev/he-no-such-volume")

    @pytest.mark.parametrize(("error", "code"), [(28, "full"), (122, "full"), (30, "read-only"), (5, "io")])
    def test_nothing_half_made_stays(self, tmp_path, monkeypatch, error, code):
        def failing(*_):
            raise OSError(error, os.strerror(error))

        (tmp_path / "kept").write_bytes(b"kept")
        monkeypatch.setattr(volumes, "_zero", failing)
        path = tmp_path / "new"
        assert problem(lambda: create_volume(str(path), MIB, None)) == code
        old = tmp_path / "old"
        old.write_bytes(bytes(MIB))
        assert problem(lambda: create_volume(str(old), MIB, None)) == code  # it was there before: it stays
        assert sorted(os.listdir(tmp_path)) == ["kept", "old"]

    def test_a_domain_that_could_not_be_finished_is_removed_and_no_more(self, tmp_path, monkeypatch):
        made = []
        zero = volumes._zero

        def fails_at_the_fifth(handle, count):
            made.append(handle)
            if len(made) == 5:
                raise OSError(28, "No space left on device")
            zero(handle, count)

        (tmp_path / SD / "images" / "other").mkdir(parents=True)
        monkeypatch.setattr(volumes, "_zero", fails_at_the_fifth)
        assert problem(lambda: make(tmp_path)) == "full"
        assert len(made) == 5
        assert [name for where, _, names in os.walk(tmp_path) for name in names] == []
        assert os.listdir(tmp_path / SD) == ["images"] and os.listdir(tmp_path / SD / "images") == ["other"]
        monkeypatch.setattr(volumes, "_zero", zero)
        make(tmp_path).verify()

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    def test_a_storage_that_is_really_full(self, tmp_path):
        """A file system of 16 MiB on a loop device."""
        backing, mounted = tmp_path / "backing", tmp_path / "mounted"
        backing.write_bytes(bytes(16 * MIB))
        mounted.mkdir()
        subprocess.run(["mkfs.ext4", "-q", str(backing)], check=True, timeout=60)
        done = subprocess.run(["mount", "-o", "loop", str(backing), str(mounted)], capture_output=True, timeout=60)
        if done.returncode:
            pytest.skip("no loop device here")
        try:
            assert problem(lambda: create_volume(str(mounted / "new"), 64 * MIB, None)) == "full"
            assert not (mounted / "new").exists()
            assert problem(lambda: make(mounted, force=True)) == "full"
            assert os.listdir(mounted) == ["lost+found"]
        finally:
            subprocess.run(["umount", str(mounted)], check=True, timeout=60)

    def test_a_metadata_volume_smaller_than_what_readers_scan(self, tmp_path):
        sizes = VolumeSizes(metadata=MIB)
        assert problem(lambda: create_domain(str(tmp_path), SD, NAMES, sizes)) == "too-small"
        assert os.listdir(tmp_path) == []

    def test_sector_size(self, tmp_path):
        assert problem(lambda: make(tmp_path, sector_size=1024)) == "sector-size"
        assert make(tmp_path, sector_size=4096).sector_size() == 4096


class TestVerify:
    def test_not_mounted(self, tmp_path):
        assert problem(LocalDomain(str(tmp_path / "absent"), SD).verify) == "missing"
        assert problem(LocalDomain("relative", SD).verify) == "path"
        (tmp_path / SD).mkdir()
        assert problem(LocalDomain(str(tmp_path), SD).verify) == "missing"

    def test_another_domain(self, tmp_path):
        domain = make(tmp_path)
        other = "2" + SD[1:]
        os.rename(domain.directory, tmp_path / other)
        assert problem(LocalDomain(str(tmp_path), other).verify) == "metadata"

    def test_damaged_metadata(self, tmp_path):
        domain = make(tmp_path)
        with open(domain.metadata_path, "wb") as file:
            file.write(b"BLOCK_SIZE=many\n")
        assert problem(domain.sector_size) == "metadata"
        with open(domain.metadata_path, "wb") as file:
            file.write(b"\xff\xfe")
        assert problem(domain.sector_size) == "metadata"

    def test_a_storage_that_fails_is_not_called_damaged(self, tmp_path, monkeypatch):
        domain = make(tmp_path)

        def fail(self, path):
            raise IoFailure("io", 5)

        monkeypatch.setattr(FilesHere, "text", fail)
        assert problem(domain.verify) == "io"
        assert problem(domain.sector_size) == "io"

    def test_ids_missing(self, tmp_path):
        domain = make(tmp_path)
        os.unlink(domain.ids_path)
        assert problem(domain.verify) == "missing"


class TestCheckVolume:
    def test_good(self, tmp_path):
        make(tmp_path)
        check_volume(str(tmp_path / SD / "images/i1/v1"), SCANNED, 512)

    def test_missing_small_or_something_else(self, tmp_path):
        (tmp_path / "small").write_bytes(bytes(8192))
        os.mkfifo(tmp_path / "pipe")
        assert problem(lambda: check_volume(str(tmp_path / "absent"), 1, 512)) == "missing"
        assert problem(lambda: check_volume(str(tmp_path / "small"), SCANNED, 512)) == "too-small"
        assert problem(lambda: check_volume(str(tmp_path / "pipe"), 1, 512)) in ("not-a-volume", "no-direct-io")

    def test_larger_sectors_below(self, tmp_path):
        path = tmp_path / "volume"
        path.write_bytes(bytes(8192))
        assert problem(lambda: check_volume(str(path), 1, 512, look=lambda _path: LARGE_SECTORS)) == "sector-size"
        check_volume(str(path), 1, 4096, look=lambda _path: LARGE_SECTORS)

    def test_a_read_only_file_system(self, tmp_path, monkeypatch):
        path = tmp_path / "volume"
        path.write_bytes(bytes(8192))

        class ReadOnly:
            f_flag = os.ST_RDONLY

        monkeypatch.setattr(volumes.os, "statvfs", lambda _path: ReadOnly)
        assert problem(lambda: check_volume(str(path), 1, 512)) == "read-only"
        check_volume(str(path), 1, 512, writable=False)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
    def test_no_access(self, tmp_path):
        path = tmp_path / "volume"
        path.write_bytes(bytes(8192))
        os.chmod(path, 0o600)
        for directory in [tmp_path, *list(tmp_path.parents)[:2]]:
            os.chmod(directory, 0o755)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(36)
            os.setuid(36)
            try:
                check_volume(str(path), 1, 512)
            except DomainProblem as error:
                os._exit(7 if error.code == "no-access" else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
