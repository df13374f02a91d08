"""The engine VM's definition, read from the configuration volume on a thread of its own.

Storage may hang, so the cycle only ever sees the last result. The effective ``vm.conf`` in the run directory is
replaced by rename, and only when its content changed. While the volume cannot be read the last good definition stays
in use; after a restart of the agent that is the copy in the run directory, then ``vm.conf.fallback``.
"""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from ovirt_he_ha.agent.actions import Definition
from ovirt_he_ha.config.journal import throttled
from ovirt_he_ha.config.text import atomic_write
from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.core.seams import Clock
from ovirt_he_ha.hypervisor.definition import DefinitionRefused, check, engine_xml
from ovirt_he_ha.hypervisor.vm_conf import VmConfError, parse_vm_conf

log = logging.getLogger(__name__)

# product seconds between two looks at the volume; a change of the definition takes effect within that time
REFRESH = 60.0
NO_DEFINITION = "no-definition"


@dataclass(frozen=True)
class Effective:
    """``problem`` is empty, or the code of what forbids a start; ``detail`` names the element and what is expected."""

    xml: str = ""
    memory_mib: int = 0
    refreshed_at: int = 0
    problem: str = NO_DEFINITION
    detail: str = "the configuration volume has not been read yet"


class StartRefused(Exception):
    msg = "The engine VM's definition is refused ({problem}): {detail}"

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(problem, detail)
        self.problem = problem
        self.detail = detail

    def __str__(self) -> str:
        return self.msg.format(problem=self.problem, detail=self.detail)


class DefinitionSource:
    """``read()`` returns the text of ``vm.conf`` from the archive; it may block and may raise OSError or an archive
    error. ``rest()``: a good definition was read, and the next read is a minute away. One that is refused is read again
    after 5 s: a process for each of these reads would cost more than the agent itself."""

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
    ) -> None:
        self._read = read
        self._rest = rest
        self._lease = lease
        self._vmid = vmid
        self._effective_path = effective_path
        self._fallback_path = fallback_path
        self._clock = clock
        self._on_change = on_change
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._current = Effective()
        self._text: Optional[str] = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="definition", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    @property
    def current(self) -> Effective:
        with self._lock:
            return self._current

    def definition(self) -> Definition:
        """For START. Raises StartRefused."""
        current = self.current
        if current.problem:
            raise StartRefused(current.problem, current.detail)
        return Definition(current.xml, self._lease)

    def refresh(self) -> None:
        """One look at the volume; what it finds becomes ``current``."""
        try:
            text = self._read()
        except Exception as e:  # any failure of the volume or archive: the last good definition stays
            log.warning(
                "Cannot read the VM's definition from the configuration volume: %s", e, extra=throttled("definition")
            )
            self._use_copy()
            return
        self._set(text)
        self._save(self._effective_path, text)
        self._save(self._fallback_path, text)

    def _run(self) -> None:
        while not self._stop.is_set():
            before = self.current
            self.refresh()
            if self.current.problem != before.problem or self.current.xml != before.xml:
                self._on_change()
            if not self.current.problem:
                self._rest()
            self._stop.wait(REFRESH / self._clock.scale if not self.current.problem else 5.0 / self._clock.scale)

    def _use_copy(self) -> None:
        if self._text is not None:
            return
        for path in (self._effective_path, self._fallback_path):
            try:
                self._set(path.read_text(encoding="utf-8"))
                return
            except (OSError, UnicodeDecodeError):
                continue

    def _set(self, text: str) -> None:
        effective = self._judge(text)
        with self._lock:
            self._current = effective
            self._text = text

    def _judge(self, text: str) -> Effective:
        stamp = int(self._clock.monotonic())
        try:
            conf = parse_vm_conf(text)
            xml = engine_xml(conf, self._lease)
            check(xml, self._lease, self._vmid)
        except DefinitionRefused as e:
            return Effective("", 0, stamp, e.code, str(e))
        except VmConfError as e:
            return Effective("", 0, stamp, "vm-conf", str(e))
        return Effective(xml, conf.memory_mib, stamp, "", "")

    def _save(self, path: Path, text: str) -> None:
        data = text.encode("utf-8")
        try:
            if path.exists() and path.read_bytes() == data:
                return
            atomic_write(path, data, 0o640)
        except OSError as e:
            log.warning("Cannot write %s: %s. The VM can still be started here", path, e.strerror)
