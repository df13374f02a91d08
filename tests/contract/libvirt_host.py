"""Small hypervisor hosts for the libvirt contract tests: real libvirtd and real sanlock, each host in its own PID,
mount and UTS namespace. All hosts share one network namespace without any way out, and are told apart by their
loopback address.

sanlock runs ten times as fast (libfaketime), so that a join at io_timeout 1 s takes a third of a second.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Callable, Dict, List, Optional, Type

LOCKSPACE = "3c0ffee0-0000-4000-8000-000000000001"
VOLUME = "3c0ffee0-0000-4000-8000-00000000d15c"
IMAGE = "3c0ffee0-0000-4000-8000-000000001111"
VMID = "11111111-2222-3333-4444-555555555555"
MIB = 1 << 20
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"

INNER = """
set -e
mkdir -p "$HOST_ROOT"/run "$HOST_ROOT"/lib "$HOST_ROOT"/cache "$HOST_ROOT"/log "$HOST_ROOT"/etc
hostname "$HOST_NAME"
mount --bind "$HOST_ROOT/lib" /var/lib/libvirt
mount --bind "$HOST_ROOT/cache" /var/cache/libvirt
mount --bind "$HOST_ROOT/log" /var/log/libvirt
mount --bind "$HOST_ROOT/etc" /etc/libvirt
mount --bind "$HOST_ROOT/run" /run
mkdir -p /run/lock /run/libvirt /run/sanlock
mount -t tmpfs tmpfs /dev/shm
: > "$HOST_ROOT/ready"
while :; do sleep 3600 & wait $!; done
"""

LIBVIRTD_CONF = """
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
tcp_port = "16509"
listen_addr = "{address}"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
host_uuid = "{uuid}"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
keepalive_interval = -1
"""

QEMU_CONF = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
migration_address = "{address}"
seccomp_sandbox = 0
lock_manager = "sanlock"
"""

SANLOCK_CONF = """
auto_disk_leases = 0
host_id = {host_id}
require_lease_for_disks = 0
io_timeout = 0
user = "root"
group = "root"
"""


def missing_component() -> str:
    """The first thing this machine lacks for these tests, or an empty text."""
    if os.geteuid() != 0:
        return "root"
    for program in ("libvirtd", "qemu-system-x86_64", "sanlock", "unshare", "nsenter"):
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            return program
    for file in (FAKETIME, "/usr/lib/x86_64-linux-gnu/libvirt/lock-driver/sanlock.so"):
        if not os.path.exists(file):
            return file
    return ""


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Poll every 10 ms. Returns the seconds it took; AssertionError when the time is over."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > seconds:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - begin


class Site:
    """Shared storage and network, and the hosts on them. A context manager: nothing of it is left on exit."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="he-lv-", dir="/tmp"))
        self.domain = self.root / "sd" / LOCKSPACE
        self.volume = self.domain / "images" / IMAGE / VOLUME
        self.lease_path = str(self.volume) + ".lease"
        self.ids_path = str(self.domain / "dom_md" / "ids")
        self.hosts: Dict[str, Host] = {}
        self._network: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> "Site":
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _build(self) -> None:
        self.volume.parent.mkdir(parents=True)
        Path(self.ids_path).parent.mkdir(parents=True)
        for path, size in ((str(self.volume), 4 * MIB), (self.lease_path, 8 * MIB), (self.ids_path, MIB)):
            with open(path, "wb") as f:
                f.truncate(size)
        sanlock_direct("init", "-s", f"{LOCKSPACE}:0:{self.ids_path}:0", "-o", "1")
        sanlock_direct("init", "-r", f"{LOCKSPACE}:{VOLUME}:{self.lease_path}:0")
        self._network = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--kill-child",
                "--fork",
                "sh",
                "-c",
                "ip link set lo up && echo up && exec sleep 3600",
            ],
            stdout=subprocess.PIPE,
        )
        assert self._network.stdout is not None
        assert self._network.stdout.readline() == b"up\n"

    def add(self, name: str, host_id: int) -> "Host":
        assert self._network is not None
        host = Host(self, name, host_id, children(self._network.pid)[0])
        self.hosts[name] = host
        host.boot()
        return host

    def owner(self) -> int:
        """Host id that owns the VM's lease on disk; 0 for nobody."""
        text = sanlock_direct("read_leader", "-r", f"{LOCKSPACE}:{VOLUME}:{self.lease_path}:0")
        values = dict(line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2)
        return 0 if int(values["timestamp"]) == 0 else int(values["owner_id"])

    def close(self) -> None:
        for host in self.hosts.values():
            host.power_off()
        if self._network is not None:
            self._network.kill()
            self._network.wait(10)
        shutil.rmtree(self.root, ignore_errors=True)


class Host:
    """``address`` is where its libvirtd listens; ``uri`` works from outside of its namespaces."""

    def __init__(self, site: Site, name: str, host_id: int, network_pid: int) -> None:
        self.site = site
        self.name = name
        self.host_id = host_id
        self.address = f"127.0.0.{10 + host_id}"
        self.root = site.root / name
        self.uri = f"qemu+unix:///system?socket={self.root}/run/libvirt/libvirt-sock"
        self._network_pid = network_pid
        self._init: Optional[subprocess.Popen[bytes]] = None
        self._daemons: Dict[str, subprocess.Popen[bytes]] = {}

    @property
    def init_pid(self) -> int:
        assert self._init is not None
        return children(self._init.pid)[0]

    @property
    def namespace(self) -> str:
        """What ``ns/pid`` of this host's processes links to."""
        return os.readlink(f"/proc/{self.init_pid}/ns/pid")

    def boot(self) -> None:
        self.root.mkdir()
        self._init = subprocess.Popen(
            ["nsenter", f"--net=/proc/{self._network_pid}/ns/net", "--", "unshare", "--pid", "--fork", "--kill-child",
             "--mount-proc", "--mount", "--uts", "--propagation", "private", "bash", "-c", INNER],
            env=dict(os.environ, HOST_ROOT=str(self.root), HOST_NAME=f"host-{self.name}"),
        )  # fmt: skip
        wait_until((self.root / "ready").exists, 10, f"namespaces of host {self.name}")
        etc = self.root / "etc"
        values = {
            "address": self.address,
            "host_id": self.host_id,
            "uuid": f"{self.host_id:08d}-aaaa-4bbb-8ccc-123456789abc",
        }
        for file, text in (("libvirtd", LIBVIRTD_CONF), ("qemu", QEMU_CONF), ("qemu-sanlock", SANLOCK_CONF)):
            for name, value in values.items():
                text = text.replace(f"{{{name}}}", str(value))
            (etc / f"{file}.conf").write_text(text)
        self.start_sanlock()
        self.start_libvirtd()

    def start_sanlock(self) -> None:
        self._spawn(
            "sanlock",
            ["env", f"LD_PRELOAD={FAKETIME}", "FAKETIME=+0 x10", "SANLOCK_PRIVILEGED=0", "/usr/sbin/sanlock", "daemon",
             "-D", "-w", "0", "-h", "0", "-l", "0", "-U", "root", "-G", "root", "-e", f"host-{self.name}"],
        )  # fmt: skip
        wait_until((self.root / "run/sanlock/sanlock.sock").exists, 10, "sanlock's socket")

    def join(self) -> None:
        self.sanlock_client("add_lockspace", "-s", f"{LOCKSPACE}:{self.host_id}:{self.site.ids_path}:0")

    def leave(self) -> None:
        self.sanlock_client("rem_lockspace", "-s", f"{LOCKSPACE}:{self.host_id}:{self.site.ids_path}:0")

    def sanlock_client(self, *words: str) -> str:
        done = subprocess.run(
            ["/usr/sbin/sanlock", "client", *words],
            env=dict(os.environ, SANLOCK_RUN_DIR=str(self.root / "run/sanlock")),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"sanlock client {words}: {done.stdout} {done.stderr}"
        return done.stdout

    def start_libvirtd(self) -> None:
        socket = self.root / "run/libvirt/libvirt-sock"
        for stale in (socket, self.root / "run/libvirtd.pid"):
            stale.unlink(missing_ok=True)
        self._spawn("libvirtd", ["/usr/sbin/libvirtd", "--listen"])
        wait_until(socket.exists, 20, "libvirtd's socket")

    def run(self, *command: str) -> None:
        """Run a program in this host's namespaces."""
        subprocess.run(
            ["nsenter", "-t", str(self.init_pid), "-p", "-m", "-u", "-n", "--", *command], check=True, timeout=30
        )

    def daemon_pid(self, name: str) -> int:
        return children(self._daemons[name].pid)[0]

    def kill_daemon(self, name: str, number: int = signal.SIGKILL) -> None:
        os.kill(self.daemon_pid(name), number)
        if number == signal.SIGKILL:
            shell = self._daemons.pop(name)
            shell.kill()  # nsenter stops itself when its child is stopped, and would not see the child's end
            shell.wait(10)

    def qemu_pids(self) -> List[int]:
        """Outer pids of this host's living qemu processes."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if (
                    os.readlink(f"/proc/{entry}/ns/pid") == self.namespace
                    and b"-uuid" in Path(f"/proc/{entry}/cmdline").read_bytes()
                ):
                    found.append(int(entry))
            except OSError:
                continue
        return found

    def _spawn(self, name: str, command: List[str]) -> None:
        with open(self.root / f"{name}.out", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                ["nsenter", "-t", str(self.init_pid), "-p", "-m", "-u", "-n", "--", *command],
                env=dict(os.environ, SANLOCK_RUN_DIR="/run/sanlock"), stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        wait_until(lambda: bool(children(self._daemons[name].pid)), 5, f"{name}'s process")

    def power_off(self) -> None:
        if self._init is None:
            return
        for pid in children(self._init.pid):
            os.kill(pid, signal.SIGKILL)
        for process in (self._init, *self._daemons.values()):
            process.kill()
            process.wait(10)


def children(pid: int) -> List[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sanlock_direct(*words: str) -> str:
    done = subprocess.run(["/usr/sbin/sanlock", "direct", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"sanlock direct {words}: {done.stdout} {done.stderr}"
    return done.stdout
