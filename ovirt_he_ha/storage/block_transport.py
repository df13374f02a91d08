"""What brings a block domain's LUNs to this host."""

import contextlib
import os
import time
from pathlib import Path as FilePath
from typing import Dict, List, Protocol, Sequence, Set, Tuple

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.storage.command import CommandError, Commands
from ovirt_he_ha.storage.errors import ConnectionProblem
from ovirt_he_ha.storage.iscsi import Iscsi, Login, Path, Session, configured_paths
from ovirt_he_ha.storage.mount_table import mounts

LOGIN = 20.0  # wall seconds for one path: a portal that is gone must not take the time of those that answer
_SYSFS = "sys/class/block"


class Transport(Protocol):
    """Every call ends within ``seconds`` (wall)."""

    @property
    def where(self) -> str:
        """For errors: targets and portals, or the ports."""
        ...

    def connect(self, seconds: float, made: List[str]) -> List[str]:
        """Idempotent. ``made`` receives a word for each thing that was done, at once: see ``undo``. Returns notes.
        Raises ConnectionProblem, CommandError when there is no way at all."""
        ...

    def rescan(self, seconds: float) -> None:
        """LUNs that came since. Failures show in what is looked for next."""
        ...

    def complete(self) -> bool:
        """Whether waiting for further devices is of no use."""
        ...

    def undo(self, made: Sequence[str], seconds: float) -> None:
        """As far as it can be undone."""
        ...

    def disconnect(self, seconds: float) -> bool:
        """True if something ended. What others use stays."""
        ...


class IscsiTransport:
    def __init__(self, conf: HostedEngineConf, paths: HostPaths, iscsi: Iscsi) -> None:
        self._conf = conf
        self._paths = paths
        self._iscsi = iscsi
        configured_paths(conf, paths, ["default"])  # nonsense is refused before anything is called
        self._logged_in: Dict[str, Login] = {}

    @property
    def where(self) -> str:
        return f"{self._conf.iqn} at {self._conf.storage}"

    def connect(self, seconds: float, made: List[str]) -> List[str]:
        until = time.monotonic() + seconds
        sessions = self._iscsi.sessions(seconds)
        wanted = self._wanted(seconds)
        notes: List[str] = []
        problems: List[ConnectionProblem] = []
        for path in wanted:
            if any(session.is_of(path) for session in sessions):
                continue
            try:
                self._login(path, until, made)
            except ConnectionProblem as problem:
                problems.append(problem)
        if len(problems) == len(wanted):
            raise problems[0]
        notes += [f"One path of {len(wanted)} is missing: {problem}" for problem in problems]
        return notes

    def _login(self, path: Path, until: float, made: List[str]) -> None:
        seconds = min(LOGIN, max(1.0, until - time.monotonic()))
        word = f"session {path.where}"
        self._logged_in[word] = self._iscsi.login(path, seconds)
        made.append(word)

    def rescan(self, seconds: float) -> None:
        with contextlib.suppress(CommandError):
            self._iscsi.rescan(seconds)

    def complete(self) -> bool:
        return False

    def undo(self, made: Sequence[str], seconds: float) -> None:
        for word in made:
            with contextlib.suppress(CommandError, OSError):  # the others all the same
                self._iscsi.take_back(self._logged_in[word], seconds)

    def disconnect(self, seconds: float) -> bool:
        ended = False
        sessions = self._iscsi.sessions(seconds)
        wanted = self._wanted(seconds) if sessions else []
        for path in wanted:
            for session in (each for each in sessions if each.is_of(path)):
                if not self._used(session):
                    self._iscsi.logout(path, seconds)
                    self._iscsi.forget(path, seconds)
                    ended = True
        return ended

    def _wanted(self, seconds: float) -> List[Path]:
        return configured_paths(self._conf, self._paths, self._iscsi.interfaces(seconds))

    def _used(self, session: Session) -> bool:
        """A LUN of this session that something else has: another volume group, a mount."""
        pattern = f"sys/class/iscsi_session/session{session.number}/device/target*/*/block/*"
        disks = [found.name for found in self._paths.root.glob(pattern)]
        mounted = {mount.device for mount in mounts(self._paths.mount_table)}
        return any(_in_use(self._paths.root, disk, mounted) for disk in disks)


class FcTransport:
    """The fabric and the host's adapter have logged in before we are asked."""

    def __init__(self, paths: HostPaths, commands: Commands) -> None:
        self._paths = paths
        self._commands = commands

    @property
    def where(self) -> str:
        names = [_line(port / "port_name") for port in self._ports()]
        return f"Fibre Channel ({', '.join(names) or 'no adapter'})"

    def connect(self, _seconds: float, _made: List[str]) -> List[str]:
        ports = self._ports()
        if not ports:
            raise ConnectionProblem(
                "no-target", "Fibre Channel", "an adapter", "this host has none: look at lspci, and load its driver"
            )
        online = [port for port in ports if _line(port / "port_state") == "Online"]
        if not online:
            states = ", ".join(f"{_line(port / 'port_name')} {_line(port / 'port_state')}" for port in ports)
            raise ConnectionProblem(
                "no-target", f"Fibre Channel ({states})", "a port that is online", "look at cables, switch and zoning"
            )
        return [
            f"Fibre Channel port {_line(port / 'port_name')} is {_line(port / 'port_state') or 'in an unknown state'}"
            for port in ports
            if port not in online
        ]

    def rescan(self, seconds: float) -> None:
        # By a process: the kernel may take minutes over it, and does not let go of who asked.
        for port in self._ports():
            scan = self._paths.root / "sys" / "class" / "scsi_host" / port.name / "scan"
            with contextlib.suppress(CommandError):
                self._commands.run(["sh", "-c", 'echo "- - -" >"$0"', str(scan)], seconds)

    def complete(self) -> bool:
        return True

    def undo(self, _made: Sequence[str], _seconds: float) -> None: ...

    def disconnect(self, _seconds: float) -> bool:
        return False

    def _ports(self) -> List[FilePath]:
        return sorted((self._paths.root / "sys" / "class" / "fc_host").glob("host*"))


class VdsmTransport:
    """vdsm has logged in, or will when its manager tells it to."""

    where = "the LUNs that vdsm connected"

    def connect(self, _seconds: float, _made: List[str]) -> List[str]:
        return []

    def rescan(self, _seconds: float) -> None: ...

    def complete(self) -> bool:
        return True

    def undo(self, _made: Sequence[str], _seconds: float) -> None: ...

    def disconnect(self, _seconds: float) -> bool:
        return False


def device_identity(root: FilePath, devices: Sequence[str]) -> Tuple[Tuple[str, str], ...]:
    """By what the storage knows the LUNs, which a clone does not share. Of different kinds on different hosts, and only
    compared with its own kind."""
    kinds: Dict[str, List[str]] = {}
    for device in devices:
        name = os.path.basename(os.path.realpath(str(root) + device if str(root) != "/" else device))
        text = _line(root / _SYSFS / name / "dm" / "uuid") or _line(root / _SYSFS / name / "device" / "wwid")
        kind, sign, value = text.replace("mpath-", "mpath.", 1).partition(".")
        if sign:
            kinds.setdefault(kind, []).append(value)
    return tuple((f"LUN ({kind})", " ".join(sorted(values))) for kind, values in sorted(kinds.items()))


def _in_use(root: FilePath, disk: str, mounted: Set[str]) -> bool:
    """A multipath device above it is no use by itself, but what is above that, or mounted from it."""
    if _line(root / _SYSFS / disk / "dev") in mounted:
        return True
    for holder in (root / _SYSFS / disk / "holders").glob("*"):
        if not _line(root / _SYSFS / holder.name / "dm" / "uuid").startswith("mpath-"):
            return True
        if _in_use(root, holder.name, mounted):
            return True
    return any(_in_use(root, part.parent.name, mounted) for part in (root / _SYSFS / disk).glob(f"{disk}*/partition"))


def _line(path: FilePath) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
