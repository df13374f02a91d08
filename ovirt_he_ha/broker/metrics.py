"""Counters of the broker since its start."""

import threading
from collections import Counter
from typing import Dict


class Metrics:
    """Named counters; a name is lower-case words with dots, such as ``rpc.calls`` or ``storage.bytes_read``.
    Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] += amount

    def get(self, name: str) -> int:
        with self._lock:
            return self._counts[name]

    def counts(self) -> Dict[str, int]:
        """All counters that were ever moved."""
        with self._lock:
            return dict(sorted(self._counts.items()))
