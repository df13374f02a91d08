"""Waiting for what a verb has begun: one line that is redrawn on a terminal, one line per change elsewhere."""

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import Callable, Iterator, Optional, TextIO, Tuple

from ovirt_he_ha.cli.deployment import CALL_SECONDS, link_to_broker
from ovirt_he_ha.cli.hosts import Hosts, read_hosts
from ovirt_he_ha.cli.request import Refusal, plain
from ovirt_he_ha.client.link import BrokerError, BrokerSnapshot
from ovirt_he_ha.config.paths import HostPaths

TICK = 1.0  # wall seconds between two lines on a terminal; nothing is read for it but the broker's memory
LOOK = 5.0  # wall seconds between two looks elsewhere, when nothing wakes us
AGAIN = 1.0  # wall seconds until a broker that did not answer is asked again
PAUSE = 0.2  # wall seconds between two looks at the least, whatever the broker says: 5 looks a second, not 500
_USUAL_WIDTH = 80  # columns of a terminal that does not tell
NOTICE = 1.0  # wall seconds until somebody who was not told to wait is told why he does

# What is to be seen now, and whether it is what is waited for. Raises Refusal when it will not come.
Condition = Callable[[BrokerSnapshot, Hosts], Tuple[str, bool]]


class Overdue(Refusal):
    """What was waited for has not come. ``seen``: what was seen last."""

    def __init__(self, seconds: float, seen: str) -> None:
        super().__init__("overdue", f"Not within {seconds:.0f} s: {seen}. It goes on; --vm-status shows it")
        self.seconds = seconds
        self.seen = seen


def redraw(stream: TextIO, text: str) -> None:
    """One line of a terminal, in the place of the one before: longer than the screen is wide it could not be drawn over
    again."""
    line = " ".join(plain(text).split("\n"))
    width = _columns(stream) - 1
    stream.write("\r\x1b[K" + (line if len(line) <= width else line[: max(0, width - 1)] + "~"))


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except (OSError, ValueError):
        return _USUAL_WIDTH


class Progress:
    """``limit`` in wall seconds."""

    def __init__(self, limit: float, stream: Optional[TextIO] = None) -> None:
        self._stream = stream or sys.stdout
        self._begin = time.monotonic()
        self._limit = limit
        self._shown = ""
        self._drawn = False
        self.redraws = self._stream.isatty()

    @property
    def passed(self) -> float:
        return time.monotonic() - self._begin

    @property
    def left(self) -> float:
        return max(0.0, self._limit - self.passed)

    def show(self, text: str) -> None:
        if self.redraws:
            redraw(self._stream, f"[{self.passed:3.0f} of {self._limit:.0f} s] {text}")
            self._drawn = True
        elif text != self._shown:
            self._stream.write(plain(f"[{self.passed:3.0f} s] {text}") + "\n")
        self._shown = text
        self._stream.flush()

    def close(self) -> None:
        """The next output begins on a line of its own."""
        if self._drawn:
            self._stream.write("\n")
            self._drawn = False


def wait_for(paths: HostPaths, seconds: float, condition: Condition, stream: Optional[TextIO] = None) -> None:
    """Returns when ``condition`` holds. A broker that does not answer meanwhile is asked again. ``stream``: where the
    progress is shown, standard output unless told otherwise. Raises Overdue after ``seconds`` (wall), and what
    ``condition`` raises."""
    progress = Progress(seconds, stream)
    text = "nothing could be seen yet"
    try:
        with link_to_broker(paths) as link:
            while True:
                link.deadline = min(CALL_SECONDS, max(0.5, progress.left))
                began = time.monotonic()
                try:
                    snapshot = link.snapshot()
                    text, done = condition(snapshot, read_hosts(snapshot, link.is_host_alive()))
                    progress.show(text)
                    if done:
                        return
                    if progress.left > 0:
                        link.wait_for_change(snapshot.serial, min(TICK if progress.redraws else LOOK, progress.left))
                        time.sleep(min(max(0.0, began + PAUSE - time.monotonic()), progress.left))
                except BrokerError as error:
                    text = str(error)
                    progress.show(text)
                    time.sleep(min(AGAIN, progress.left))
                if progress.left <= 0:
                    break
    finally:
        progress.close()
    raise Overdue(seconds, text)


@contextmanager
def notice(text: str, stream: Optional[TextIO] = None) -> Iterator[None]:
    """Around a call that cannot be looked into: says on standard error what takes long, once it does; on a terminal
    with the seconds, until it has ended."""
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(text, stream or sys.stderr, ended), daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _tell(text: str, stream: TextIO, ended: threading.Event) -> None:
    if ended.wait(NOTICE):
        return
    if not stream.isatty():
        stream.write(plain(text) + "\n")
        stream.flush()
        return
    begin = time.monotonic() - NOTICE
    while True:
        redraw(stream, f"[{time.monotonic() - begin:3.0f} s] {text}")
        stream.flush()
        if ended.wait(TICK):
            break
    stream.write("\r\x1b[K")
    stream.flush()
