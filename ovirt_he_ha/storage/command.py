"""Running an external command: with a deadline, without a secret in sight, and with its words in the error."""

import os
import select
import signal
import subprocess
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Dict, Iterator, Optional, Sequence, Tuple

from ovirt_he_ha.storage.output import MOST, Output, holders

MOST_TOLD = 600  # characters of it in an error
KILL_GRACE = 0.5  # wall seconds from SIGKILL until a command counts as hanging in the kernel
TERM_GRACE = 0.5  # wall seconds that a command has to clean up behind itself
_SYSTEM_PATH = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")  # a shell of "su" has no sbin
_HIDDEN = "***"
_SHORTEST = 6  # characters of a secret that no argument may equal
_LONGEST = 160  # characters of an argument that is shown


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


_WORDS = {
    "failed": "{command}: ended with status {status}: {said}",
    "absent": "{command}: the program is not installed{said}",
    "overdue": "{command}: no end within {seconds:g} s, killed{said}",
    "stuck": "{command}: no end within {seconds:g} s, and it hangs in the kernel: it ends when the storage answers, or "
    "with a restart of the host{said}",
}


class CommandError(Exception):
    """``command`` as it was called; ``said`` is the end of its standard error, or of its output. ``code``:
    ``failed`` (``status`` is its exit status), ``absent``, ``overdue``, ``stuck`` (overdue, and it cannot be killed:
    it sleeps in the kernel)."""

    def __init__(self, code: str, command: str, status: int = 0, said: str = "", seconds: float = 0.0) -> None:
        super().__init__(code, command, status, said, seconds)
        self.code = code
        self.command = command
        self.status = status
        self.said = said
        self.seconds = seconds

    def __str__(self) -> str:
        said = self.said or ("no word" if self.code == "failed" else "")
        if self.code != "failed" and said:
            said = f" ({said})"
        return _WORDS[self.code].format(command=self.command, status=self.status, said=said, seconds=self.seconds)


class SecretOnCommandLine(ValueError):
    """A defect of ours: every user of the host can read the arguments of every process."""


class Commands:
    """``environ`` gives PATH; nothing else of it reaches the command."""

    def __init__(self, environ: Optional[Dict[str, str]] = None) -> None:
        source = dict(os.environ) if environ is None else environ
        path = [part for part in source.get("PATH", "").split(":") if part]
        self._environ = {
            "PATH": ":".join([*path, *(part for part in _SYSTEM_PATH if part not in path)]),
            "LC_ALL": "C",  # the messages are recognised by their words
            "LVM_SUPPRESS_FD_WARNINGS": "1",
        }

    def run(
        self, argv: Sequence[str], seconds: float, accept: Tuple[int, ...] = (0,), secrets: Tuple[str, ...] = ()
    ) -> Outcome:
        """Raises CommandError unless it ends within ``seconds`` (wall) with a status in ``accept``. ``secrets`` may not
        be among the arguments, and are struck from what is told of the command in an error."""
        if any(_is_among(argv, secret) for secret in secrets):
            raise SecretOnCommandLine(f"{argv[0]}: a credential is among its arguments")
        with closing(Output()) as out, closing(Output()) as err:
            code, status = self._ended(argv, seconds, out, err)
            out.take()
            err.take()
            outcome = Outcome(status, out.text(), err.text())
        said = _told(outcome.err, secrets) or _told(outcome.out, secrets)
        if code or outcome.status not in accept:
            raise CommandError(code or "failed", shown(argv), outcome.status, said, seconds)
        if out.is_cut:  # half a report is none
            said = f"more than {MOST >> 20} MiB of output: {said}"[:MOST_TOLD]
            raise CommandError("failed", shown(argv), status, said)
        return outcome

    def _ended(self, argv: Sequence[str], seconds: float, out: Output, err: Output) -> Tuple[str, int]:
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=out.writer,
                stderr=err.writer,
                env=self._environ,
                start_new_session=True,
                # It ignores SIGPIPE, as we do: a mount's helper may leave a daemon behind, which a word to our closed
                # end would kill otherwise, and the mount with it.
                restore_signals=False,
                cwd="/",
            )
        except (FileNotFoundError, PermissionError) as error:
            raise CommandError("absent", argv[0], said=error.strerror or "") from error
        out.begun()
        err.begun()
        try:
            if _waited(process, max(0.01, seconds), (out, err)):
                return "", process.wait()
            return ("overdue" if _killed(process, (out, err)) else "stuck"), 0
        except BaseException:
            _killed(process, (out, err))
            raise


def _waited(process: "subprocess.Popen[bytes]", seconds: float, outputs: Sequence[Output]) -> bool:
    """Whether it ended in time."""
    until = time.monotonic() + seconds
    open_outputs = {each.fileno(): each for each in outputs}
    with _ending(process) as handle:
        poll = select.poll()
        for number in (handle, *open_outputs):
            poll.register(number, select.POLLIN)
        left = seconds
        while left > 0:
            for number, _ in poll.poll(left * 1000):
                if number == handle:
                    return True
                if not open_outputs[number].take():
                    poll.unregister(number)
            left = until - time.monotonic()
    return False


@contextmanager
def _ending(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    """A handle that can be read when the process has ended."""
    handle = os.pidfd_open(process.pid)
    try:
        yield handle
    finally:
        os.close(handle)


def _killed(process: "subprocess.Popen[bytes]", outputs: Sequence[Output]) -> bool:
    """The command and its children; also those of a session of their own that still have its outputs. False: it is
    still there."""
    ended = _group_killed(process)
    for pid in holders(outputs):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return ended


def _group_killed(process: "subprocess.Popen[bytes]") -> bool:
    for number, grace in ((signal.SIGTERM, TERM_GRACE), (signal.SIGKILL, KILL_GRACE)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        end = time.monotonic() + grace
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        if process.returncode is not None and number == signal.SIGKILL:
            break
    return process.poll() is not None


def shown(argv: Sequence[str]) -> str:
    """For an error: what is long says nothing to anybody."""
    return " ".join(word if len(word) <= _LONGEST else "..." for word in argv)


def _is_among(argv: Sequence[str], secret: str) -> bool:
    """As a whole word or value. A short one may be a word of the tool's ("node"), and any one part of a longer word (of
    the target's name): that gives nothing away."""
    return len(secret) >= _SHORTEST and any(word == secret or word.endswith(f"={secret}") for word in argv)


def _told(text: str, secrets: Tuple[str, ...]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, _HIDDEN)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    joined = "; ".join(line for line in lines if line)
    return "".join(char if char.isprintable() else "?" for char in joined)[-MOST_TOLD:]
