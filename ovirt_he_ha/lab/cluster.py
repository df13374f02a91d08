"""Making and removing a lab."""

import compileall
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence, TypeVar

from ovirt_he_ha.lab import appliance, control, domain, native_code, process, services, state, watchdog
from ovirt_he_ha.lab.layout import ENGINE_FQDN, Lab, LabError, LabHost, UnfitDirectory

log = logging.getLogger(__name__)
Say = Callable[[str], None]
T = TypeVar("T")

# An abstract socket name in the machine's network namespace: held by the keeper, gone with it.
CLAIM = "\0ovirt-he-lab"
MARK = ".he-lab"  # makes a directory ours: `down` removes no other
TOOLS = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    "/usr/sbin/sanlock": "sanlock",
    "/usr/sbin/wdmd": "sanlock",
    "gcc": "gcc",
    "pkg-config": "pkg-config",
    "/usr/sbin/libvirtd": "libvirt-daemon-system",
    "qemu-system-x86_64": "qemu-system-x86",
    "dpkg-deb": "dpkg",
}


class NeedsRoot(LabError):
    def __init__(self) -> None:
        super().__init__("The lab makes namespaces and mounts inside them: run he-lab as root (or with sudo).")


class MissingTools(LabError):
    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__("Missing: " + ", ".join(f"{tool} (package {TOOLS[tool]})" for tool in missing) + ".")


class ClosedEnvironment(LabError):
    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is closed to other users, and the lab's daemons run as one: `chmod -R o+rX {path}`, or make the "
            "virtual environment again with umask 022."
        )


class NotReady(LabError):
    def __init__(self, what: str, waited: float, log_file: Path) -> None:
        super().__init__(f"{what} did not come within {waited:.0f} s: see {log_file}, then `he-lab down`.")


def check_machine() -> None:
    """Raises NeedsRoot, MissingTools, NoFuse."""
    if os.geteuid() != 0:
        raise NeedsRoot()
    path = "/usr/sbin:/usr/bin:/sbin:/bin:" + os.environ.get("PATH", "")
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing:
        raise MissingTools(missing)
    native_code.check_fuse()


def check_environment(venv: str) -> None:
    """The hosts get the virtual environment under another path, so only what is inside it must be open to everybody.
    Raises ClosedEnvironment."""
    if not venv:
        return
    for path in (venv, f"{venv}/bin", sysconfig.get_paths(vars={"base": venv, "platbase": venv})["purelib"]):
        if os.stat(path).st_mode & 0o005 != 0o005:
            raise ClosedEnvironment(path)


def check_directory(directory: str) -> None:
    """The daemons' user must be able to reach it, and nothing but a lab may be in it. Raises UnfitDirectory."""
    existing = Path(directory)
    while not existing.exists():
        existing = existing.parent
    for part in (existing, *existing.parents):
        if not part.stat().st_mode & 0o001:
            raise UnfitDirectory(directory, f"{part} is closed to other users, and the lab's daemons run as one")
    if Path(directory).is_dir() and os.listdir(directory) and not (Path(directory) / MARK).exists():
        raise UnfitDirectory(directory, "it holds files that are no lab's")


def up(lab: Lab, say: Say, unfenced: Sequence[int] = ()) -> None:
    """Make the lab and start its hosts, those with the ids ``unfenced`` without a watchdog. Raises LabError; then
    ``down`` clears what is left."""
    without = [lab.host(host_id) for host_id in unfenced]
    check_machine()
    check_environment(lab.venv)
    check_directory(lab.directory)
    claim = claim_machine()  # before anything is made: a refused lab leaves no trace
    try:
        os.makedirs(lab.directory, mode=0o755, exist_ok=True)
        with state.exclusive(lab.directory):
            clear(lab.directory)
            prepare(lab, say)
            for host in without:
                watchdog.set_present(host, False)
            start_keeper(lab, claim)
            start_hosts(lab, say)
    finally:
        claim.close()


def start_hosts(lab: Lab, say: Say) -> None:
    say(f"starting {lab.hosts} hosts")
    wait_for(lab.observations.exists, 10, "the observer", lab.log / "observer.log")
    control.call(lab.control, "power-on", hosts=lab.host_ids)
    wait_services(lab, lab.host_ids)


def claim_machine() -> socket.socket:
    """Only one lab at a time has this name. Raises LabExists with that lab's directory."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(CLAIM)
    except OSError:
        claim.close()
        raise state.LabExists(str(control.call(CLAIM, "where", deadline=5))) from None
    claim.listen(4)
    return claim


def prepare(lab: Lab, say: Say) -> None:
    root = lab.root
    (root / MARK).touch()
    state.save_plan(lab)
    say("building the appliance" if not any(appliance.cache_directory().glob("*")) else "appliance from the cache")
    appliance.provide(lab.appliance, appliance.cache_directory())
    native_code.build(lab)
    copy_source(lab)
    lab.etc.mkdir()
    hosts = [lab.host(host_id) for host_id in lab.host_ids]
    with open("/etc/group", encoding="utf-8") as group, open("/etc/passwd", encoding="utf-8") as passwd:
        texts = services.etc_files(hosts, group.read(), passwd.read(), ENGINE_FQDN, lab.engine_address)
    for name, text in texts.items():
        (lab.etc / name).write_text(text)
        (lab.etc / name).chmod(0o644)
    domain.create(lab)
    for host in hosts:
        domain.write_host_files(host)


def copy_source(lab: Lab) -> None:
    """The package as it is now, readable for the daemons' user wherever the checkout lies: a running lab does not
    change under the hands of who edits the checkout."""
    package = Path(__file__).resolve().parents[1]
    target = lab.source / package.name
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(str(target), quiet=2)
    for base, _, names in os.walk(lab.source):
        os.chmod(base, 0o755)  # noqa: S103 (the daemons' user reads it)
        for name in names:
            os.chmod(os.path.join(base, name), 0o644)


def start_keeper(lab: Lab, claim: socket.socket) -> None:
    from ovirt_he_ha.lab.keeper import UNSHARE

    lab.log.mkdir()
    reader, writer = os.pipe()
    fds = (claim.fileno(), reader)
    with open(lab.log / "keeper.log", "ab") as output:
        outer = subprocess.Popen(
            [*UNSHARE, lab.interpreter, "-m", "ovirt_he_ha.lab.keeper", lab.directory, *map(str, fds)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=fds,
            env={**os.environ, "PYTHONPATH": str(lab.source)},
            cwd="/",
            start_new_session=True,
        )
    os.close(reader)
    try:
        found = wait_for(lambda: process.children(outer.pid), 10, "the lab's first process", lab.log / "keeper.log")
        keeper = process.identify(found[0])
        if keeper is None:
            raise NotReady("the lab's first process", 0, lab.log / "keeper.log")
        state.save_keeper(lab, keeper)
        os.write(writer, b"\n")
    finally:
        os.close(writer)
    wait_for(lambda: answers(lab), 10, "the keeper's socket", lab.log / "keeper.log")


def answers(lab: Lab) -> bool:
    try:
        control.call(lab.control, "status", deadline=5)
    except control.Unreachable:
        return False
    return True


def wait_for(condition: Callable[[], T], limit: float, what: str, log_file: Path) -> T:
    """Poll every 20 ms. Returns the first true answer; raises NotReady after ``limit`` wall seconds."""
    end = time.monotonic() + limit
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise NotReady(what, limit, log_file)
        time.sleep(0.02)


def wait_services(lab: Lab, host_ids: Sequence[int]) -> None:
    """Until wdmd, sanlock and libvirtd of these hosts have their sockets."""
    for host_id in host_ids:
        host = lab.host(host_id)
        watched = [services.WDMD_SOCKET] if watchdog.is_present(host) else []
        for path in (*watched, services.SANLOCK_SOCKET, services.LIBVIRT_SOCKET):
            inside = host.run / path.relative_to("/run")
            what = f"{inside.name} of {host.name}"
            wait_for(partial(connects, inside), 20, what, host.directory / "init.log")


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def down(directory: str) -> bool:
    """Remove whatever is there of a lab, in whatever state. Returns whether there was anything."""
    if os.geteuid() != 0:
        raise NeedsRoot()
    root = Path(directory)
    if not root.is_dir() or not (root / MARK).exists():
        return False
    with state.exclusive(directory):
        clear(directory)
        (root / MARK).unlink()
        with contextlib.suppress(OSError):  # somebody put a file of his own there
            root.rmdir()
    return True


def clear(directory: str) -> None:
    """End the keeper, and with it every process, mount and network device of the lab; then remove the files."""
    keeper = state.keeper_of(directory)
    if keeper is not None:
        if "COVERAGE_PROCESS_START" in os.environ:
            end_gently(state.load_lab(directory), keeper)
        process.kill(keeper)
        wait_for(lambda: not process.alive(keeper), 20, "the end of the lab's first process", Path(directory) / "log")
    for path in ours(Path(directory)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def end_gently(lab: Lab, keeper: process.ProcessId) -> None:
    """A process that is killed leaves no coverage data: ask all of ours to end first."""
    spaces = [namespace(lab.host(host_id)) for host_id in lab.host_ids]
    for host in (lab.host(host_id) for host_id in lab.host_ids):
        for service in ("agent", "broker"):
            with contextlib.suppress(LabError):  # powered off, or without that service
                control.call(host.control, "stop", deadline=5, service=service)
    ours_running = [
        pid for space in (*spaces, process.pid_namespace(keeper.pid)) for pid in process.in_namespace(space)
    ]
    daemons = [pid for pid in ours_running if any("ovirt_he_ha." in word for word in process.command_line(pid))]
    identities = [identity for identity in map(process.identify, daemons) if identity is not None]
    for identity in identities:
        process.kill(identity, signal.SIGTERM)
    # The first process of a namespace saves its data and stays: the kernel spares it its own signal.
    firsts = {keeper.pid, *(process.init_of(space) for space in spaces)}
    ending = [identity for identity in identities if identity.pid not in firsts]
    end = time.monotonic() + 6
    while time.monotonic() < end and any(map(process.alive, ending)):
        time.sleep(0.1)
    time.sleep(0.5)


def ours(root: Path) -> Iterator[Path]:
    fixed = ("appliance", "src", "etc", "storage", "log", "drills", "native", "views", "fusectl")
    for path in root.iterdir():
        if path.name in fixed or path.name in _FILES or (path.name[:1] == "h" and path.name[1:].isdigit()):
            yield path


_FILES = ("lab.json", "lab.json.new", "keeper.json", "keeper.json.new", "keeper.sock", "observer.jsonl")


def interpreter() -> str:
    return sys.executable


def virtual_environment() -> str:
    return sys.prefix if sys.prefix != sys.base_prefix else ""


def inside(
    host: LabHost, command: Sequence[str], limit: Optional[float] = None, **options: Any
) -> "subprocess.CompletedProcess[Any]":
    """Run ``command`` as root inside a host, in that host's environment. ``options`` are those of subprocess.run.
    After ``limit`` wall seconds it is killed, by somebody inside (killing `nsenter` would leave it running): the
    exit code is then 137."""
    guard = [] if limit is None else ["timeout", "-s", "KILL", f"{limit:g}"]
    argv = nsenter(host, [*guard, *command])
    return subprocess.run(argv, env={**services.environment(host), **options.pop("env", {})}, **options)


def nsenter(host: LabHost, command: Sequence[str]) -> List[str]:
    """The command line that runs ``command`` inside a host. Raises HostOff."""
    init = host_init(host)
    if init is None:
        raise HostOff(host)
    return ["nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "--", *command]


class HostOff(LabError):
    def __init__(self, host: LabHost) -> None:
        super().__init__(f"{host.name} is powered off: `he-lab start-host --host {host.host_id}` powers it on.")


def namespace(host: LabHost) -> str:
    """The name of the host's PID namespace; empty while it is off."""
    try:
        return host.namespace_file.read_text()
    except OSError:
        return ""


def host_init(host: LabHost) -> Optional[int]:
    return process.init_of(namespace(host))
