"""The engine VM's definition, read from the shared storage on a thread of its own.

In this order: the newest OVF_STORE volume whose OVF passes every check, an older one, what this host used last,
``vm.conf`` of the configuration archive, the copies on this host. The archive's is the one of the deployment: the
management application does not keep it up to date, so it comes before this host's copy only while there is no
OVF_STORE.

Storage may hang, so the cycle only ever sees the last result. The effective ``vm.conf`` in the run directory is
replaced by rename, and only when its content changed.
"""

import logging
import re
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Iterable, Optional, Sequence, Tuple

from ovirt_he_ha.agent.actions import Definition
from ovirt_he_ha.agent.shared_storage import OvfCandidate
from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.config.text import ConfigError, atomic_write
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.core.seams import Clock
from ovirt_he_ha.hypervisor.custom_definition import Custom, CustomRefused
from ovirt_he_ha.hypervisor.definition import DefinitionRefused, check, engine_xml
from ovirt_he_ha.hypervisor.ovf import Converted, OvfRefused, convert
from ovirt_he_ha.hypervisor.vm_conf import VmConfError, parse_vm_conf
from ovirt_he_ha.storage.ovf_store import OvfStoreError

log = logging.getLogger(__name__)

# product seconds between two looks at the volumes; a change of the definition takes effect within that time
REFRESH = 60.0
FRESH = 5.0  # product seconds; a start takes a definition as it is when it was looked at within that time
NO_DEFINITION = "no-definition"
ARCHIVE = "the configuration archive"
COPY = "this host's copy"
_HEAD = "# The engine VM as ovirt-ha-agent starts it. Changes made here are lost: change the VM through its engine.\n"
_ORIGIN = re.compile(r"^# From (.*), [0-9TZ:-]+$", re.MULTILINE)


@dataclass(frozen=True)
class Effective:
    """``problem`` is empty, or the code of what forbids a start; ``detail`` names the element and what is expected.
    ``origin``: where it was found, for people."""

    xml: str = ""
    memory_mib: int = 0
    refreshed_at: int = 0
    problem: str = NO_DEFINITION
    detail: str = "the shared storage has not been read yet"
    origin: str = ""


class StartRefused(Exception):
    msg = "The engine VM's definition is refused ({problem}): {detail}"

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(problem, detail)
        self.problem = problem
        self.detail = detail

    def __str__(self) -> str:
        return self.msg.format(problem=self.problem, detail=self.detail)


@dataclass(frozen=True)
class _Used:
    """``source``: the OVF's bytes, or the text of vm.conf, with what the administrator adds: equal ones make the same
    definition."""

    source: Tuple[object, Custom]
    text: str
    from_ovf: bool


class DefinitionSource:
    """``read()`` returns the text of ``vm.conf`` from the archive; it may block and may raise OSError or an archive
    error. ``ovfs()``: the OVFs of the VM, newest first; it may block, and may raise OvfStoreError (``no-store``: there
    are none) or StorageError. ``custom()``: what this host's administrator adds; may raise ConfigError. ``rest()``: a
    good definition was read, and the next read is a minute away. One that is refused is read again after 5 s: a process
    for each of these reads would cost more than the agent itself."""

    def __init__(
        self,
        read: Callable[[], str],
        lease: LeaseId,
        vmid: str,
        effective_path: Path,
        fallback_path: Path,
        clock: Clock,
        on_change: Callable[[], None],
        rest: Callable[[], None] = lambda: None,
        ovfs: Optional[Callable[[], Iterable[OvfCandidate]]] = None,
        custom: Callable[[], Custom] = Custom,
        reserved: Sequence[str] = (),
    ) -> None:
        self._read = read
        self._ovfs = ovfs
        self._read_custom = custom
        self._rest = rest
        self._lease = lease
        self._reserved = tuple(reserved)
        self._vmid = vmid
        self._effective_path = effective_path
        self._fallback_path = fallback_path
        self._clock = clock
        self._on_change = on_change
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._current = Effective()
        self._used: Optional[_Used] = None
        self._looked_at: Optional[float] = None
        self._custom = Custom()

    def start(self) -> None:
        threading.Thread(target=self._run, name="definition", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    @property
    def current(self) -> Effective:
        with self._lock:
            return self._current

    def definition(self) -> Definition:
        """For START: what was changed within the last minute counts as well, so it may take as long as a look. Raises
        StartRefused."""
        looked = self._looked_at
        if looked is not None and self._clock.monotonic() - looked > FRESH:
            self.refresh()
            self._rest()
        current = self.current
        if current.problem:
            raise StartRefused(current.problem, current.detail)
        return Definition(current.xml, self._lease)

    def refresh(self) -> None:
        """One look at the volumes; what it finds becomes ``current``."""
        with self._turn:
            try:
                self._custom = self._read_custom()
            except ConfigError as e:
                self._set(Effective("", 0, self._now(), "extra-xml", str(e)), None)
                return
            if not self._use_ovf():
                self._use_archive()
            self._looked_at = self._clock.monotonic()

    def _run(self) -> None:
        while not self._stop.is_set():
            before = self.current
            self.refresh()
            if self.current.problem != before.problem or self.current.xml != before.xml:
                self._on_change()
            if not self.current.problem:
                self._rest()
            self._stop.wait(REFRESH / self._clock.scale if not self.current.problem else 5.0 / self._clock.scale)

    # --- the chain ----------------------------------------------------------------------------------------------------

    def _use_ovf(self) -> bool:
        """Whether a definition that came from an OVF is in use now."""
        if self._ovfs is None:
            return False
        refused: Optional[Effective] = None
        try:
            for candidate in self._ovfs():
                effective = self._judged_ovf(candidate)
                if not effective.problem:
                    return True
                refused = refused or effective
                log.warning(
                    "%s: the engine VM's OVF is left aside: %s",
                    candidate.path,
                    effective.detail,
                    extra=throttled("ovf"),
                )
        except OvfStoreError as e:
            if e.code == "no-store":
                return False
            log.warning("%s", e, extra=throttled("ovf"))
        except Exception as e:  # any failure of the storage: the last good definition stays
            log.warning("Cannot look for the OVF_STORE volumes: %s", e, extra=throttled("ovf"))
        return self._keep_last() or (refused is not None and self._use_archive_instead_of(refused))

    def _keep_last(self) -> bool:
        if self._used is None:
            text = self._copy(self._effective_path)
            if text is not None and _came_from_ovf(text):
                self._take((text, self._custom), text, COPY, True)
        return self._used is not None and self._used.from_ovf and not self.current.problem

    def _use_archive_instead_of(self, refused: Effective) -> bool:
        """The newest OVF was refused: if nothing else is good, that is what has to be mended."""
        self._use_archive()
        if self.current.problem:
            self._set(refused, None)
        return True

    def _judged_ovf(self, candidate: OvfCandidate) -> Effective:
        """It is in use now, unless it has a problem."""
        if candidate.problem is not None:
            return self._refused(candidate.problem.code, str(candidate.problem), candidate.path)
        source = (candidate.data, self._custom)
        if self._unchanged(source):
            return self.current
        try:
            converted = convert(candidate.data, self._vmid)
        except OvfRefused as e:
            return self._refused("ovf", f"{candidate.path}: {e}", candidate.path)
        effective = _with_reason(self._judge(converted.text, candidate.path), converted)
        if not effective.problem:
            self._use(source, converted.text, effective, True)
        return effective

    def _use_archive(self) -> None:
        try:
            text = self._read()
        except Exception as e:  # any failure of the volume or archive: the last good definition stays
            log.warning(
                "Cannot read the VM's definition from the configuration volume: %s", e, extra=throttled("definition")
            )
            self._use_copy()
            return
        self._take((text, self._custom), text, ARCHIVE, False)

    def _use_copy(self) -> None:
        if self._used is not None:
            return
        for path in (self._effective_path, self._fallback_path):
            text = self._copy(path)
            if text is not None:
                self._set(self._judge(text, COPY), _Used((text, self._custom), text, _came_from_ovf(text)))
                return

    def _copy(self, path: Path) -> Optional[str]:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    # --- one of them ------------------------------------------------------------------------------------------------

    def _take(self, source: Tuple[object, Custom], text: str, origin: str, from_ovf: bool) -> None:
        """Good or not."""
        if not self._unchanged(source):
            self._use(source, text, self._judge(text, origin), from_ovf)

    def _unchanged(self, source: Tuple[object, Custom]) -> bool:
        """Nothing to do then but to say that it was looked at."""
        if self._used is None or self._used.source != source or self.current.problem:
            return False
        self._set(replace(self.current, refreshed_at=self._now()), self._used)
        return True

    def _use(self, source: Tuple[object, Custom], text: str, effective: Effective, from_ovf: bool) -> None:
        self._set(effective, _Used(source, text, from_ovf))
        if effective.origin == COPY:
            return
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock.wall()))
        self._save(self._effective_path, f"{_HEAD}# From {effective.origin}, {moment}\n\n", text)
        self._save(self._fallback_path, "", text)

    def _set(self, effective: Effective, used: Optional[_Used]) -> None:
        with self._lock:
            self._current = effective
            self._used = used or self._used

    def _judge(self, text: str, origin: str) -> Effective:
        try:
            conf = parse_vm_conf(text)
            xml = engine_xml(conf, self._lease, custom=self._custom)
            check(xml, self._lease, self._vmid, reserved=self._reserved, allowed=self._custom.allowed)
        except DefinitionRefused as e:
            return self._refused(e.code, str(e), origin)
        except VmConfError as e:
            return self._refused("vm-conf", str(e), origin)
        except CustomRefused as e:
            return self._refused("extra-xml", str(e), origin)
        return Effective(xml, conf.memory_mib, self._now(), "", "", origin)

    def _refused(self, code: str, detail: str, origin: str) -> Effective:
        return Effective("", 0, self._now(), code, detail, origin)

    def _now(self) -> int:
        return int(self._clock.monotonic())

    def _save(self, path: Path, head: str, text: str) -> None:
        try:
            if path.exists() and _body(path.read_bytes()) == text.encode("utf-8"):
                return
            # Both files lie below /run, and are made anew after a boot: waiting for a busy disk took up to 20 ms.
            atomic_write(path, (head + text).encode("utf-8"), 0o640, durable=False)
        except OSError as e:
            log.warning("Cannot write %s: %s. The VM can still be started here", path, e.strerror)


def _body(data: bytes) -> bytes:
    """Without the head that names origin and time."""
    head = _HEAD.encode("utf-8")
    return data.partition(b"\n\n")[2] if data.startswith(head) else data


def _came_from_ovf(text: str) -> bool:
    found = _ORIGIN.search(text[:4096])
    return text.startswith(_HEAD) and found is not None and found.group(1) != ARCHIVE


def _with_reason(effective: Effective, converted: Converted) -> Effective:
    """An OVF whose libvirt XML does not carry what guards the VM is refused for that, not for having none."""
    if not effective.problem or not converted.without_xml:
        return effective
    return replace(effective, problem="no-xml", detail=converted.without_xml)
