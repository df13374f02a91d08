"""The initial file system is a cpio archive that the kernel, and cpio, can read."""

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
    for name in found:
        parent = name.rpartition("/")[0]
        assert not parent or parent in found
