"""A signal that asks for the end is heard, whichever thread of the process takes it."""

import os
import signal
import subprocess
import sys

import pytest

# The main thread waits as the daemons' does. Tells the number of another thread, then of each signal that was heard.
PROGRAM = """
import queue, sys, threading
from ovirt_he_ha.config.end_signals import on_end
heard = queue.SimpleQueue()
on_end(lambda: heard.put(None))
other = threading.Thread(target=threading.Event().wait, daemon=True)
other.start()
print(other.native_id, flush=True)
for _ in range(2):
    heard.get()
    print("heard", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("taken_by", ["the main thread", "another thread"])
def test_it_is_heard_whichever_thread_takes_it(number: signal.Signals, taken_by: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            other = int(process.stdout.readline())
            for _ in range(2):
                # The kernel prefers the thread whose number is given. It chooses another by itself as well, and the
                # program cannot tell.
                os.kill(process.pid if taken_by == "the main thread" else other, number)
                assert process.stdout.readline() == "heard\n"
            assert process.wait(30) == 0
        finally:
            process.kill()
