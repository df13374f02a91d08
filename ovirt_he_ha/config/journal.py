"""Where log records go: the journal with their fields, or standard error."""

import atexit
import logging
import os
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.config.backlog import Backlog

FIELD_PREFIX = "HE_"
MAX_REMEMBERED = 1000  # classes of messages; the oldest is forgotten first

FINISH_SECONDS = 0.5  # wall: at its end a daemon waits so long for the journal

log = logging.getLogger(__name__)
_installed: List[Backlog] = []


def throttled(message_class: str, interval: float = 60.0, **fields: object) -> Dict[str, object]:
    """For ``extra=``: an equal message of this logger and class passes once per ``interval`` wall seconds; a changed
    one passes at once. ``fields`` become journal fields (``HE_STATE=...``)."""
    return {"throttle": (message_class, interval), **fields}


class Throttle(logging.Filter):
    """Per logger *and* class: two monitors that use one class name do not evict each other. A record that passes after
    others were held back carries their number as HE_REPEATED."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: OrderedDict[Tuple[str, str], Tuple[str, float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        throttle = getattr(record, "throttle", None)
        if throttle is None:
            return True
        message_class, interval = throttle
        key = (record.name, message_class)
        text = record.getMessage()
        now = self._clock()
        before = self._last.get(key)
        if before and before[0] == text and now - before[1] < interval:
            self._last[key] = (text, before[1], before[2] + 1)
            return False
        if before and before[0] == text and before[2]:
            record.HE_REPEATED = before[2]
        self._last[key] = (text, now, 0)
        self._last.move_to_end(key)
        while len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)
        return True


class LineFormatter(logging.Formatter):
    """One line of text: time, level, logger, message, fields."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = [f"{key}={value}" for key, value in sorted(vars(record).items()) if key.startswith(FIELD_PREFIX)]
        return " ".join([line, *fields]) if fields else line


def setup_logging(name: str, conf: Optional[Path] = None, level: int = logging.INFO) -> None:
    """Send the process's log to the journal under the identifier ``name`` when systemd reads our standard error and
    its binding is there, else to standard error.

    ``conf`` is a file in the format of ``logging.config``: handlers it names are added, its root level counts. One
    that is missing or does not parse costs a line in the log, never the daemon. Calling again replaces what the first
    call installed. Whoever logs from then on does not wait for the writing; ``finish_logging`` does.
    """
    root = logging.getLogger()
    for backlog in _installed:
        root.removeHandler(backlog)
        backlog.end(FINISH_SECONDS)
    _installed.clear()
    root.setLevel(level)
    before = list(root.handlers)
    problem = _apply(conf) if conf is not None else ""
    main, missing = _main_handler(name)
    named = [each for each in root.handlers if each not in before]
    for handler in named:
        root.removeHandler(handler)
    backlog = Backlog([*named, main])
    root.addHandler(backlog)
    _installed.append(backlog)
    for handler in root.handlers:
        if not any(isinstance(each, Throttle) for each in handler.filters):
            handler.addFilter(Throttle())
    for line in (problem, missing):
        if line:
            log.warning("%s", line)


def finish_logging(seconds: float = FINISH_SECONDS) -> bool:
    """At the end of a process: wait at most so many wall seconds until everything is written. False: the log hangs."""
    return all([backlog.drain(seconds) for backlog in _installed])


atexit.register(finish_logging)  # before logging's own end, which closes the handlers


def _apply(conf: Path) -> str:
    if not conf.is_file():
        return ""
    import logging.config  # brings 1 MB along, for a file that few hosts have

    try:
        logging.config.fileConfig(str(conf), disable_existing_loggers=False)
    except Exception as error:  # the file names classes and arguments: anything can come out of it
        return f"{conf}: logging configuration ignored, {type(error).__name__}: {error}"
    return ""


def _main_handler(name: str) -> Tuple[logging.Handler, str]:
    """The handler, and what is worth a line in it."""
    missing = ""
    if reads_stderr():
        try:
            from systemd.journal import JournalHandler

            handler: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER=name)
            handler.setFormatter(logging.Formatter("%(message)s"))
            return handler, ""
        except ImportError:
            missing = "no structured fields in the journal: Python module systemd is missing (package python3-systemd)"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    return handler, missing


def reads_stderr(environ: Optional[Mapping[str, str]] = None, descriptor: int = 2) -> bool:
    """Whether the journal is at the other end of standard error: JOURNAL_STREAM names its device and inode. A process
    that only inherited the variable, and was redirected, logs to where it was redirected."""
    stream = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"
