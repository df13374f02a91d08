"""The stand-in for the management appliance: the distribution's cloud kernel, and busybox serving the health page.

Built from two packages, which are downloaded but not installed, and kept in a cache: a second lab needs no network.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import List

from ovirt_he_ha.lab.guest import BLOCK, CONTROL_PATH, CONTROL_PORT, DIARY_OFFSET
from ovirt_he_ha.lab.layout import LabError
from ovirt_he_ha.lab.network import CommandFailed, run

KERNEL_PACKAGE = "linux-image-cloud-amd64"
# virtio_ring before virtio: the other order leaves the guest without a network, and silently so. button and evdev:
# without either the guest never sees its power button.
MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("failover", "net_failover", "virtio_net", "virtio_blk", "button", "evdev"),
)
APPLETS = (
    "sh",
    "mount",
    "insmod",
    "ip",
    "httpd",
    "sleep",
    "poweroff",
    "cat",
    "echo",
    "mkdir",
    "acpid",
    "dd",
    "sync",
    "cut",
    "printf",
    "true",
    "halt",
    "rm",
    "kill",
)
DIRECTORIES = (
    *("bin", "dev", "proc", "sys", "tmp", "etc", "etc/acpi", "etc/acpi/PWRF", "lib", "lib/mod"),
    *("var", "var/log", "var/run", "www", "www/ovirt-engine", "www/ovirt-engine/services"),
    *("control", "control/cgi-bin"),
)
INIT = (
    """\
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in /lib/mod/*.ko; do insmod $m; done
for a in $(cat /proc/cmdline); do case $a in
  eng.ip=*) IP=${a#eng.ip=};; eng.gw=*) GW=${a#eng.gw=};; eng.desk=*) DESK=${a#eng.desk=};;
  eng.delay=*) D=${a#eng.delay=};; eng.die=*) DIE=${a#eng.die=};; esac; done
ip link set lo up
n=0; while [ ! -e /sys/class/net/eth0 ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done
ip addr add $IP dev eth0; ip link set eth0 up; ip route add default via $GW
acpid -f & echo $! > /tmp/acpid
# One block per second on the raw disk: the boot's name and a counter.
( B=$(cut -c1-8 /proc/sys/kernel/random/boot_id); n=0
  while :; do n=$((n+1)); sleep 1
    printf '%s %s\\n' $B $n | dd of=/dev/vda bs=BLOCK seek=SEEK conv=sync,notrunc,fsync 2>/dev/null; done ) &
[ -n "$D" ] && sleep $D
printf 'A:%s\\nD:*\\n' ${DESK:-127.0.0.1} > /etc/control.conf
httpd -p PORT -h /control -c /etc/control.conf
echo 'DB Up!Welcome to Health Status!' > /www/ovirt-engine/services/health
httpd -f -p 80 -h /www & echo $! > /tmp/page
echo "READY uptime=$(cat /proc/uptime)" > /dev/ttyS0
[ -n "$DIE" ] && { sleep $DIE; poweroff -f; }
while :; do sleep 3600; done
""".replace("PORT", str(CONTROL_PORT))
    .replace("BLOCK", str(BLOCK))
    .replace("SEEK", str(DIARY_OFFSET // BLOCK))
)
# What ends the kernel does so after the answer is on its way.
CONTROL = """\
#!/bin/sh
P=/www/ovirt-engine/services/health
case $QUERY_STRING in
  health) echo 'DB Down!' > $P;;
  error) rm -f $P;;
  page) kill -STOP $(cat /tmp/page);;
  acpi) kill -STOP $(cat /tmp/acpid);;
  guest) ( sleep 0.2; halt -f ) > /dev/null 2>&1 & ;;
  panic) ( sleep 0.2; echo 0 > /proc/sys/kernel/panic; echo c > /proc/sysrq-trigger ) > /dev/null 2>&1 & ;;
  ok) echo 'DB Up!Welcome to Health Status!' > $P; kill -CONT $(cat /tmp/page /tmp/acpid);;
  *) QUERY_STRING=nothing;;
esac
printf 'Content-Type: text/plain\\r\\n\\r\\ndone %s\\n' $QUERY_STRING
"""
POWER_BUTTON = "#!/bin/sh\nsync; poweroff -f\n"


class NoPackages(LabError):
    def __init__(self, why: str) -> None:
        super().__init__(
            f"The appliance's packages ({KERNEL_PACKAGE}'s kernel and busybox-static) cannot be downloaded: "
            f"{why.strip()}. "
            "They are needed once, on Debian 12 with its package lists (`apt-get update`)."
        )


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "he-lab"


def provide(target: Path, cache: Path) -> None:
    """Put ``vmlinuz`` and ``initrd`` into ``target``, from the cache or newly built. Raises NoPackages."""
    kept = cache / f"appliance-{_recipe()}"
    if not (kept / "initrd").exists():
        _build(kept)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("vmlinuz", "initrd"):
        shutil.copyfile(kept / name, target / name)
        (target / name).chmod(0o644)


def _recipe() -> str:
    """Changes with everything that the result is made from, but for the packages' versions."""
    text = "\n".join([INIT, CONTROL, POWER_BUTTON, *MODULES, *APPLETS])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _build(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        kernel = _download(work)
        unpacked = {package: _unpack(work, package) for package in (kernel, "busybox-static")}
        version = kernel[len("linux-image-") :]
        result = work / "result"
        result.mkdir()
        shutil.copyfile(unpacked[kernel] / "boot" / f"vmlinuz-{version}", result / "vmlinuz")
        modules = unpacked[kernel] / "lib" / "modules" / version
        image = initial_files((unpacked["busybox-static"] / "bin" / "busybox").read_bytes(), _modules(modules))
        (result / "initrd").write_bytes(gzip.compress(image, 6, mtime=0))
        shutil.rmtree(target, ignore_errors=True)
        result.rename(target)


def _download(work: Path) -> str:
    """The name of the kernel's package. ``-o APT::Sandbox::User=root``: apt's own user could not write here."""
    try:
        depends = run(["apt-cache", "depends", KERNEL_PACKAGE])
        kernel = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line)
        subprocess.run(
            ["apt-get", "-o", "APT::Sandbox::User=root", "download", kernel, "busybox-static"],
            cwd=work,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, CommandFailed, StopIteration) as e:
        raise NoPackages(str(e) or "no such package") from e
    except subprocess.CalledProcessError as e:
        raise NoPackages(str(e.stderr)) from e
    return kernel


def _unpack(work: Path, package: str) -> Path:
    (file,) = work.glob(f"{package}_*.deb")
    run(["dpkg-deb", "-x", str(file), str(work / package)])
    return work / package


def _modules(directory: Path) -> List[bytes]:
    """In the order in which they must be inserted; one that this kernel has built in is left out."""
    found = {path.stem: path for path in directory.rglob("*.ko")}
    return [found[name].read_bytes() for name in MODULES if name in found]


def initial_files(busybox: bytes, modules: List[bytes]) -> bytes:
    """The cpio archive that the kernel unpacks and starts /init from."""
    archive = Archive()
    for path in DIRECTORIES:
        archive.directory(path)
    archive.file("bin/busybox", busybox, 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    for number, data in enumerate(modules):
        archive.file(f"lib/mod/{number:02d}.ko", data)
    archive.file("etc/acpi/PWRF/00000080", POWER_BUTTON.encode(), 0o755)
    archive.file(f"control{CONTROL_PATH}", CONTROL.encode(), 0o755)
    archive.file("init", INIT.encode(), 0o755)
    return archive.close()


class Archive:
    """The "newc" cpio format: 110 bytes of hexadecimal header, name and content each padded to 4 bytes."""

    def __init__(self) -> None:
        self._parts: List[bytes] = []
        self._inode = 0

    def directory(self, name: str) -> None:
        self._add(name, 0o040755, b"")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._add(name, 0o100000 | mode, data)

    def link(self, name: str, target: str) -> None:
        self._add(name, 0o120777, target.encode())

    def close(self) -> bytes:
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _add(self, name: str, mode: int, data: bytes) -> None:
        self._inode += 1
        # inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum
        numbers = [self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        header = b"070701" + b"".join(b"%08X" % number for number in numbers)
        for part in (header + name.encode() + b"\0", data):
            self._parts.append(part + b"\0" * (-len(part) % 4))
