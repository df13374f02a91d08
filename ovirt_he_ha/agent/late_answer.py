"""A question that may block for seconds and has one answer for good, asked beside the cycle."""

import threading
from typing import Callable, Optional


class LateAnswer:
    """``ask()`` runs on a thread of its own, again and again until it returns a text; calling this returns that text,
    or an empty one at once. A hung libvirt would otherwise delay every cycle, and with it the kill of a paused VM, by
    5 s."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answer = ""
        self._asking: Optional[threading.Thread] = None

    def __call__(self) -> str:
        with self._lock:
            if not self._answer and (self._asking is None or not self._asking.is_alive()):
                self._asking = threading.Thread(target=self._run, name="late-answer", daemon=True)
                self._asking.start()
            return self._answer

    def _run(self) -> None:
        answer = self._ask()
        with self._lock:
            self._answer = answer
