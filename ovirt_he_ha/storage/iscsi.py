"""iSCSI by open-iscsi's own tool: sessions, logins, and what its status numbers mean."""

import contextlib
import re
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.storage.command import CommandError, Commands
from ovirt_he_ha.storage.errors import ConnectionProblem
from ovirt_he_ha.storage.iscsi_records import NodeRecords

NO_OBJECTS = 21  # "no records, targets, sessions or portals found"
SESSION_EXISTS = 15
DEFAULT_PORT = "3260"
UNDO = 10.0  # wall seconds, also after the caller's time is over
_IQN = re.compile(r"(iqn\.[0-9]{4}-[0-9]{2}\.|eui\.|naa\.)[0-9A-Za-z.:_-]{1,223}")
_ADDRESS = re.compile(r"\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z_.-]{1,253}")
_NAME = re.compile(r"[0-9A-Za-z_.-]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,5}")

# iscsiadm's status: code, what is expected, what to do.
_STATUS = {
    24: ("authentication", "a name and password that the target takes", "correct user= and password= on every host"),
    19: ("no-target", "a target that lets this host in", "look at its access list: {initiator}"),
    5: ("no-target", "a target that lets this host in", "look at its access list: {initiator}"),
    8: ("no-server", "a portal that answers", "look whether it runs, and is reached from this host on TCP port {port}"),
    4: ("no-server", "a portal that answers", "look whether it runs, and is reached from this host on TCP port {port}"),
    11: ("silent", "an answer of the target in time", "look at the path to it"),
    23: ("no-server", "a portal whose name can be looked up", "correct storage=, or the name service"),
    12: ("no-helper", "a kernel with iSCSI (modprobe iscsi_tcp)", "load the module"),
    20: ("no-helper", "a running iscsid", "systemctl start iscsid"),
    18: ("no-helper", "a running iscsid", "systemctl restart iscsid"),
    13: ("not-root", "to be called by root", "run this as root"),
}
_INITIATOR = "it must list this host's name from /etc/iscsi/initiatorname.iscsi"


@dataclass(frozen=True)
class Path:
    """One way to a target. ``interface``: a record of iscsiadm; ``default``: whichever the kernel's routes choose."""

    target: str
    address: str  # IPv6 in brackets
    port: str
    group: str  # the target portal group's tag
    interface: str = "default"

    @property
    def portal(self) -> str:
        return f"{self.address}:{self.port},{self.group}"

    @property
    def where(self) -> str:
        return f"{self.target} at {self.address}:{self.port}" + (
            f" over {self.interface}" if self.interface != "default" else ""
        )


@dataclass(frozen=True)
class Session:
    number: int
    target: str
    portal: str  # address:port,group
    interface: str
    state: str

    def is_of(self, path: Path) -> bool:
        return (self.target, self.portal, self.interface) == (path.target, path.portal, path.interface)


@dataclass(frozen=True)
class Login:
    """``session``: made by this call. ``record``: the path's as it was before; None: made by this call, too."""

    path: Path
    session: bool
    record: Optional[str]


# --- configuration ------------------------------------------------------------------------------------------------


def configured_paths(conf: HostedEngineConf, paths: HostPaths, interfaces: Sequence[str]) -> List[Path]:
    """Each portal over each interface, but those on the blacklist. With several targets the lists belong together, one
    by one. Raises ConfigError."""
    try:
        return _configured(conf, interfaces)
    except ConfigError as error:
        raise ConfigError(paths.hosted_engine_conf, error.key, error.expected, error.found) from None


def _configured(conf: HostedEngineConf, interfaces: Sequence[str]) -> List[Path]:
    addresses = _list(conf.storage)
    count = len(addresses)
    targets = _stretched(_list(conf.iqn), count, "")
    ports = _stretched(_list(conf.port), count, DEFAULT_PORT)
    groups = _stretched(_list(conf.portal), count, "1")
    if not count or not count == len(targets) == len(ports) == len(groups):
        raise _refused("iqn", "one target for all portals of storage=, or as many as portals", conf.iqn)
    for key, pattern, values in (
        ("storage", _ADDRESS, addresses),
        ("iqn", _IQN, targets),
        ("port", _NUMBER, ports),
        ("portal", _NUMBER, groups),
    ):
        for text in values:
            if not pattern.fullmatch(text):
                raise _refused(key, "iSCSI names, addresses or numbers, separated by commas", text)
    blacklist = _blacklist(conf.iscsi_paths_blacklist)
    found = [
        Path(target, address, port, group, interface)
        for address, target, port, group in zip(addresses, targets, ports, groups)
        for interface in interfaces
        if (interface, address) not in blacklist
    ]
    if not found:
        raise _refused("iscsi_paths_blacklist", "to leave at least one path", conf.iscsi_paths_blacklist)
    return found


def _refused(key: str, expected: str, found: str) -> ConfigError:
    return ConfigError("", key, expected, repr(found[:80]))


def _list(text: str) -> List[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _stretched(values: List[str], count: int, default: str) -> List[str]:
    return (values or [default]) * count if len(values) <= 1 else values


def _blacklist(text: str) -> List[Tuple[str, str]]:
    return [(interface, address) for interface, sign, address in (part.partition("<>") for part in _list(text)) if sign]


# --- the tool ------------------------------------------------------------------------------------------------------


class Iscsi:
    """Every call ends within ``seconds`` (wall)."""

    def __init__(self, commands: Commands, records: NodeRecords, user: str = "", password: str = "") -> None:
        self._commands = commands
        self._records = records
        self._user = user
        self._secrets = (password,) if password else ()
        self._password = password

    def interfaces(self, seconds: float) -> List[str]:
        """Those that somebody bound to a network device for TCP; else only ``default``. Raises CommandError."""
        outcome = self._run(["-m", "iface"], seconds, (0, NO_OBJECTS))
        found = []
        for line in outcome.splitlines():
            name, _, rest = line.partition(" ")
            fields = rest.split(",")
            bound = len(fields) >= 4 and fields[0] == "tcp" and fields[3] not in ("", "<empty>")
            if bound and name not in ("default", "iser") and _NAME.fullmatch(name):
                found.append(name)
        return found or ["default"]

    def sessions(self, seconds: float) -> List[Session]:
        """Raises CommandError."""
        return parse_sessions(self._run(["-m", "session", "-P", "1"], seconds, (0, NO_OBJECTS)))

    def login(self, path: Path, seconds: float) -> Login:
        """Not logged in again by itself at the next boot: that is for whoever calls this. Raises ConnectionProblem,
        ConfigError, OSError; then no session of it is left, and its record is as it was before."""
        before = self._records.text(path)
        try:
            return Login(path, self._login(path, before is None, seconds), before)
        except BaseException:
            with contextlib.suppress(CommandError, OSError):
                self.take_back(Login(path, True, before), UNDO)  # a login that came too late is ended too
            raise

    def take_back(self, login: Login, seconds: float) -> None:
        """Raises CommandError, OSError."""
        try:
            if login.session:
                self.logout(login.path, seconds)
        finally:
            if login.record is None:
                self.forget(login.path, seconds)
            else:
                self._records.put_back(login.path, login.record)

    def _login(self, path: Path, made: bool, seconds: float) -> bool:
        """Whether the session is this call's."""
        try:
            if made:
                self._run([*_node(path), "-o", "new"], seconds)
            self._run([*_node(path), "-o", "update", "-n", "node.startup", "-v", "manual"], seconds)
            # The tool takes a password as an argument only, where every user of the host sees it.
            self._records.authenticate(path, self._user, self._password)
            argv = ["iscsiadm", *_node(path), "--login"]
            return self._commands.run(argv, seconds, (0, SESSION_EXISTS), self._secrets).status == 0
        except CommandError as error:
            raise self._problem(path, error, seconds) from error

    def logout(self, path: Path, seconds: float) -> None:
        """No session is no error. Raises CommandError."""
        self._run([*_node(path), "--logout"], seconds, (0, NO_OBJECTS))

    def forget(self, path: Path, seconds: float) -> None:
        """Its record; none is no error. Raises CommandError."""
        self._run([*_node(path), "-o", "delete"], seconds, (0, NO_OBJECTS))

    def rescan(self, seconds: float) -> None:
        """New LUNs, on all sessions. Raises CommandError."""
        self._run(["-m", "session", "--rescan"], seconds, (0, NO_OBJECTS))

    def discover(self, path: Path, seconds: float) -> List[str]:
        """The targets that a portal offers. Raises CommandError."""
        portal = f"{path.address}:{path.port}"
        outcome = self._run(["-m", "discovery", "-t", "sendtargets", "-p", portal, "-o", "nonpersistent"], seconds)
        return sorted({line.split()[1] for line in outcome.splitlines() if len(line.split()) == 2})

    def _problem(self, path: Path, error: CommandError, seconds: float) -> ConnectionProblem:
        if error.code != "failed":
            code, expected = (
                ("no-helper", "the program iscsiadm") if error.code == "absent" else ("silent", "an answer")
            )
            todo = (
                "install iscsi-initiator-utils (EL) or open-iscsi (Debian)"
                if error.code == "absent"
                else "look at the path"
            )
            return ConnectionProblem(code, path.where, expected, todo, str(error))
        code, expected, todo = _STATUS.get(
            error.status, ("command", "a login", "look into the journal of iscsid and at the target")
        )
        if code == "no-target":
            expected, todo = self._what_is_offered(path, expected, todo, seconds)
        todo = todo.format(port=path.port, initiator=_INITIATOR)
        return ConnectionProblem(code, path.where, expected, todo, str(error))

    def _what_is_offered(self, path: Path, expected: str, todo: str, seconds: float) -> Tuple[str, str]:
        try:
            offered = self.discover(path, seconds)
        except CommandError:
            return expected, todo  # the login's own error says more
        if path.target in offered:
            return expected, todo
        listed = ", ".join(offered[:5]) or "none"
        return "a target that this portal offers", f"it offers {listed}: correct iqn= on every host, or {todo}"

    def _run(self, words: List[str], seconds: float, accept: Tuple[int, ...] = (0,)) -> str:
        return self._commands.run(["iscsiadm", *words], seconds, accept, self._secrets).out


def _node(path: Path) -> List[str]:
    return ["-m", "node", "-T", path.target, "-p", path.portal, "-I", path.interface]


def parse_sessions(text: str) -> List[Session]:
    """Of ``iscsiadm -m session -P 1``: a target, below it its portals, below each its sessions."""
    found: List[Session] = []
    target = portal = interface = ""
    number = 0
    for line in text.splitlines():
        name, _, value = line.strip().partition(": ")
        value = value.strip()
        if name == "Target":
            target = value.split(" ")[0]
        elif name == "Current Portal":
            portal = value
        elif name == "Persistent Portal":
            portal = value  # the one that was logged in to; the current may be where the target sent us
        elif name == "Iface Name":
            interface = value
        elif name == "SID":
            number = int(value) if value.isdigit() else 0
        elif name == "iSCSI Session State":
            found.append(Session(number, target, portal, interface, value))
    return found
