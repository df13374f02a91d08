"""A dialogue with a mail server that may be silent, drip, or never end."""

import io
import smtplib
import time
from typing import Tuple

from ovirt_he_ha.broker.bounded_stream import BoundedStream

SECONDS = 60.0  # wall, for the dialogue as a whole: the next mail waits for it
MOST = 1 << 16  # bytes of answers; an honest dialogue has less than 1,000


class Dialogue(smtplib.SMTP):
    """``timeout``: wall seconds for one step. Raises OSError and smtplib.SMTPException."""

    def __init__(self, host: str, port: int, timeout: float, seconds: float = SECONDS) -> None:
        self._until = time.monotonic() + seconds
        self._pause = timeout
        super().__init__(host, port, timeout=min(timeout, seconds))

    def getreply(self) -> Tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = io.BufferedReader(BoundedStream(self.sock, self._until, MOST, self._pause))
        return super().getreply()
