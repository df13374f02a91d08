"""The initial file system is a cpio archive that the kernel, and cpio, can read."""

import gzip
from pathlib import Path
from typing import List

import pytest

from ovirt_he_ha.lab import appliance, guest
from ovirt_he_ha.lab.appliance import Archive, initial_files


def entries(data: bytes) -> "dict[str, tuple[int, bytes]]":
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = numbers[1], numbers[6], numbers[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        body = at + (110 + name_size + 3) // 4 * 4
        at = body + (size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert at == len(data)
            return found
        found[name] = (mode, data[body : body + size])


def test_round_trip() -> None:
    archive = Archive()
    archive.directory("etc")
    archive.file("etc/odd", b"12345", 0o600)
    archive.link("sh", "busybox")
    assert entries(archive.close()) == {
        "etc": (0o040755, b""),
        "etc/odd": (0o100600, b"12345"),
        "sh": (0o120777, b"busybox"),
    }


def test_modules_keep_their_order_and_init_can_run() -> None:
    found = entries(initial_files(b"bb", [b"ring", b"virtio"]))
    assert found["lib/mod/00.ko"][1] == b"ring"
    assert found["lib/mod/01.ko"][1] == b"virtio"
    assert found["init"][0] == 0o100755
    assert found["etc/acpi/PWRF/00000080"][0] == 0o100755
    assert found["control/cgi-bin/ctl"][0] == 0o100755
    for name in found:
        parent = name.rpartition("/")[0]
        assert not parent or parent in found


def test_the_control_page_knows_every_word() -> None:
    for word in guest.WORDS:
        assert f"\n  {word}) " in appliance.CONTROL
    for applet in ("halt", "httpd", "rm", "cat", "sleep", "printf", "acpid"):
        assert applet in appliance.APPLETS


KERNEL = "linux-image-6.1.0-1-cloud-amd64"


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """Stand-ins for the two packages; the list tells which were downloaded."""
    downloaded: List[str] = []

    def download(work: Path) -> str:
        downloaded.append(KERNEL)
        return KERNEL

    def unpack(work: Path, package: str) -> Path:
        root = work / package
        modules = root / "lib" / "modules" / "6.1.0-1-cloud-amd64" / "kernel"
        for directory in (modules, root / "boot", root / "bin"):
            directory.mkdir(parents=True)
        (root / "boot" / "vmlinuz-6.1.0-1-cloud-amd64").write_bytes(b"kernel")
        (root / "bin" / "busybox").write_bytes(b"busybox")
        for name in ("virtio", "virtio_ring", "evdev"):
            (modules / f"{name}.ko").write_bytes(name.encode())
        return root

    monkeypatch.setattr(appliance, "_download", download)
    monkeypatch.setattr(appliance, "_unpack", unpack)
    return downloaded


def test_built_once_then_from_the_cache(tmp_path: Path, packages: List[str]) -> None:
    for target in ("one", "two"):
        appliance.provide(tmp_path / target, tmp_path / "cache")
    assert packages == [KERNEL]
    assert (tmp_path / "two" / "vmlinuz").read_bytes() == b"kernel"
    found = entries(gzip.decompress((tmp_path / "two" / "initrd").read_bytes()))
    assert [found[f"lib/mod/{n:02d}.ko"][1] for n in range(3)] == [b"virtio_ring", b"virtio", b"evdev"]
    assert [path.name[:9] for path in (tmp_path / "cache").iterdir()] == ["appliance"]


@pytest.mark.parametrize("part", ["INIT", "CONTROL", "POWER_BUTTON"])
def test_another_recipe_is_built_anew(
    tmp_path: Path, packages: List[str], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    appliance.provide(tmp_path / "one", tmp_path / "cache")
    monkeypatch.setattr(appliance, part, getattr(appliance, part) + "# changed\n")
    appliance.provide(tmp_path / "two", tmp_path / "cache")
    assert len(packages) == 2


def test_no_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appliance, "run", lambda _argv: "linux-image-cloud-amd64\n")
    with pytest.raises(appliance.NoPackages, match="apt-get update"):
        appliance.provide(tmp_path / "one", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("appliance*"))


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert appliance.cache_directory() == Path("/somewhere/he-lab")
