"""What a volume holds is told by its first bytes."""

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.core.model import Record
from ovirt_he_ha.core.slot import encode, encode_global
from ovirt_he_ha.storage.archive import MEMBERS, build_archive
from ovirt_he_ha.storage.signature import EXAMINED, Signature, signature
from ovirt_he_ha.storage.tar import header

ARCHIVE = build_archive(dict.fromkeys(MEMBERS, b"x"))


def at(offset, magic):
    return bytes(offset) + magic.ljust(512, b"\0")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "zeros"),
        (bytes(EXAMINED), "zeros"),
        (b"\xff" * 4096, "unknown"),
        (b"anything else", "unknown"),
        (ARCHIVE, "archive"),
        (header("00000000-0000-4000-8000-000000000001.ovf", 5), "ovf-store"),
        (header("other", 5), "tar"),
        (encode_global(True), "slots"),
        (bytes(3 * 4096) + encode(Record(3, 1, 3400, None, "h"), 0.0), "slots"),
        (bytes(3 * 4096) + encode(Record(4, 1, 3400, None, "h"), 0.0), "unknown"),  # in the place of another host
        (at(0, b"QFI\xfb\0\0\0\3"), "qcow2"),
        (at(512, b"EFI PART"), "disk"),
        (at(510, b"\x55\xaa"), "disk"),
        (at(512, b"LABELONE"), "lvm"),
        (at(1080, b"\x53\xef"), "ext4"),
        (at(65600, b"_BHRfS_M"), "btrfs"),
    ],
)
def test_kinds(data, kind):
    assert signature(data).kind == kind


@pytest.mark.skipif(shutil.which("sanlock", path="/usr/sbin:/usr/bin") is None, reason="sanlock is missing")
@pytest.mark.parametrize("option", ["", ":4096"])
def test_what_sanlock_writes(tmp_path, option):
    """By its own tool, which needs no daemon."""
    path = tmp_path / "volume"
    sizes = ["-Z", "4096", "-A", "1M"] if option else []
    for what, expected in (("-s hosted-engine:0:{}:0", "lockspace hosted-engine"), ("-r a:b:{}:0", "lease a:b")):
        path.write_bytes(bytes(1 << 20))
        words = what.format(path).split()
        done = subprocess.run(
            ["sanlock", "direct", "init", *sizes, *words], capture_output=True, check=False, timeout=30
        )
        assert done.returncode == 0, done
        assert str(signature(path.read_bytes()[:4096])) == expected


@given(st.binary(max_size=5000))
def test_any_bytes(data):
    assert isinstance(signature(data), Signature)
    assert str(signature(data)).isprintable()


@given(
    st.sampled_from([ARCHIVE, encode_global(False), header("x.ovf", 7)]), st.binary(max_size=90), st.integers(0, 520)
)
def test_torn_ones(data, put, offset):
    torn = bytearray(data)
    torn[offset : offset + len(put)] = put
    found = signature(bytes(torn))
    assert str(found).isprintable() and found.kind
