"""A broker that does not answer, told as programs know it that speak to a socket: each is the built-in error of its
kind, and a BrokerUnavailable."""

import errno
import socket
from typing import Callable, Dict

from ovirt_he_ha.client.link import BrokerUnavailable


class BrokerSocketError(OSError, BrokerUnavailable):
    """``path``: of the socket; ``code`` as in BrokerUnavailable."""

    def __init__(self, number: int, error: BrokerUnavailable) -> None:
        OSError.__init__(self, number, str(error))
        self.path = error.path
        self.code = error.code


class BrokerAbsent(BrokerSocketError, FileNotFoundError):
    """No socket: the broker never ran here, or was stopped."""


class BrokerRefused(BrokerSocketError, ConnectionRefusedError):
    """A socket that nobody listens at: the broker was killed."""


class BrokerForbidden(BrokerSocketError, PermissionError):
    """This user may not ask it."""


class BrokerLate(BrokerSocketError, socket.timeout):
    """No whole answer by the deadline."""


class BrokerGone(BrokerSocketError, ConnectionResetError):
    """It broke off: stopped or restarted in the middle of a call."""


_BY_CODE: Dict[str, Callable[[BrokerUnavailable], BrokerSocketError]] = {
    "no-socket": lambda error: BrokerAbsent(errno.ENOENT, error),
    "refused": lambda error: BrokerRefused(errno.ECONNREFUSED, error),
    "not-allowed": lambda error: BrokerForbidden(errno.EACCES, error),
    "overdue": lambda error: BrokerLate(errno.ETIMEDOUT, error),
}


def as_socket_error(error: BrokerUnavailable) -> BrokerUnavailable:
    """The same with the built-in kind; ``garbage`` has none and stays as it is."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code](error)
    cause = error.__cause__
    if isinstance(cause, (ConnectionError, EOFError)):
        return BrokerGone(errno.ECONNRESET, error)
    return BrokerSocketError(cause.errno or errno.EIO, error) if isinstance(cause, OSError) else error
