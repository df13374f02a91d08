"""The kernel's table of mounts, and the names that are made of sources."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.storage.mount_kinds import directory_name, normalized, same_source
from ovirt_he_ha.storage.mount_table import mounted_at, mounts

TABLE = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
61 22 0:52 / /rhev/data-center/mnt/srv:_a\040b rw,nosuid shared:33 master:2 - nfs4 srv:/a\040b rw,vers=4.2
62 22 0:53 /sub /mnt/x ro - fuse.glusterfs srv:/vol rw
63 22 0:54 / /mnt/x rw - tmpfs none rw
"""


def test_fields(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    found = mounts(table)
    assert [mount.kind for mount in found] == ["ext4", "nfs4", "fuse.glusterfs", "tmpfs"]
    assert (found[1].source, found[1].target) == ("srv:/a b", "/rhev/data-center/mnt/srv:_a b")
    assert found[1].device == "0:52" and "vers=4.2" in found[1].options
    assert [mount.read_only for mount in found] == [False, False, True, False]
    assert mounted_at(table, "/mnt/x").kind == "tmpfs"  # what is seen there
    assert mounted_at(table, "/nowhere") is None


@given(st.binary(max_size=300))
def test_any_bytes(tmp_path_factory, data):
    table = tmp_path_factory.mktemp("table") / "mountinfo"
    table.write_bytes(data)
    for mount in mounts(table):
        assert mount.target is not None


def test_the_real_one():
    from pathlib import Path

    assert mounted_at(Path("/proc/self/mountinfo"), "/") is not None


@pytest.mark.parametrize(
    "one,other,same",
    [
        ("srv:/a", "srv:/a/", True),
        ("SRV:/a", "srv:/a", True),
        ("srv:/a", "srv:/A", False),
        ("srv:/vol", "srv:vol", True),
        ("[fe80::1]:/a", "[FE80::1]:/a", True),
        ("srv:/a", "other:/a", False),
        ("/dev/sdb", "/dev//sdb", True),
        ("m1:6789,m2:6789:/", "M1:6789,m2:6789://", True),
        ("m1:6789,m2:6789:/a", "m1:6789:/a", False),
        ("/dev/sdb", "srv:/dev/sdb", False),
    ],
)
def test_the_same_source(one, other, same):
    assert same_source(one, other) is same


def test_two_sources_never_share_a_directory():
    assert directory_name("srv:/export/a_b") == "srv:_export_a__b"
    assert directory_name("srv:/a/b") != directory_name("srv:/a_b")


@given(st.from_regex(r"[a-z]{1,5}:/[a-z_./]{0,20}", fullmatch=True))
def test_normalizing_twice_changes_nothing(source):
    assert normalized(normalized(source)) == normalized(source)
    assert same_source(source, normalized(source))
