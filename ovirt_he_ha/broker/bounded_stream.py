"""What a server sends, up to a moment and a size: one that drips or pours must not hold us, nor fill the memory."""

import io
import socket
import time
from typing import Any


class TooMuch(OSError):
    """The server sent more than anything honest has."""

    msg = "more than {most} bytes were sent"

    def __init__(self, most: int) -> None:
        super().__init__(self.msg.format(most=most))
        self.most = most


def left(until: float) -> float:
    """Wall seconds until ``until`` (monotonic). Raises socket.timeout when it has passed."""
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise socket.timeout("the deadline has passed")
    return seconds


class BoundedStream(io.RawIOBase):
    """Reads from ``connection`` until the moment ``until`` (wall, monotonic), not with a pause between bytes, and at
    most ``most`` bytes in all. ``pause``: wall seconds without a byte that are waited for at most. Raises
    socket.timeout, TooMuch, OSError."""

    def __init__(self, connection: socket.socket, until: float, most: int, pause: float = float("inf")) -> None:
        self._connection = connection
        self._until = until
        self._most = most
        self._pause = pause
        self._got = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._got >= self._most:
            raise TooMuch(self._most)
        self._connection.settimeout(min(left(self._until), self._pause))
        got = self._connection.recv_into(buffer)
        self._got += got
        return got

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client asks of a socket."""
        return io.BufferedReader(self)
