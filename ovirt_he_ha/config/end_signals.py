"""SIGTERM and SIGINT for a daemon whose main thread waits."""

import os
import signal
import threading
from typing import Callable

NUMBERS = (signal.SIGTERM, signal.SIGINT)


def on_end(tell: Callable[[], None]) -> None:
    """From now on ``tell`` is called for each of these signals, on a thread of its own. For the main thread, once.

    Python runs a handler on the main thread, when that comes round. A signal for the process may be taken by any thread
    of it: by one that starts another thread or a process in the moment in which it comes, before the main thread has
    woken up for it. The main thread then finds nothing and sleeps on in whatever it waits for, and the handler never
    runs: beside three busy loops one of four stops of the agent was not heard, and systemd would have killed it after
    90 s, without its final record. What Python writes into the pipe it writes on whatever thread took the signal.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in NUMBERS:
        signal.signal(number, lambda *_: None)

    def listen() -> None:
        while os.read(reader, 1):
            tell()

    threading.Thread(target=listen, name="signals", daemon=True).start()
