"""Whole files: read with a limit, replaced at once, locked against other writers; and the error that names what is
wrong in one."""

import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import List, NoReturn, Optional, Tuple, Union

PathLike = Union[str, Path]

MAX_SIZE = 1 << 20  # bytes; the largest real one has a few hundred
LOCK_SECONDS = 5.0  # wall; a writer holds the lock for milliseconds
NOTHING = "nothing"
_TRIES = 100  # names of 48 random bits


class ConfigError(Exception):
    """A file or a key that is missing, unreadable or nonsense. ``key`` is empty when the file as a whole is meant."""

    msg = "{file}: {key}expected {expected}, found {found}"

    def __init__(self, file: PathLike, key: str, expected: str, found: str) -> None:
        super().__init__(str(file), key, expected, found)
        self.file = str(file)
        self.key = key
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        key = f"{_printable(self.key)}: " if self.key else ""
        return self.msg.format(file=_printable(self.file), key=key, expected=self.expected, found=self.found)


def read_text(path: PathLike) -> str:
    """Raises ConfigError: missing, not a file, unreadable, larger than 1 MiB, not UTF-8."""
    try:
        # O_NONBLOCK: a pipe in the place of a file must not hang a daemon
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        _refuse(path, error)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ConfigError(path, "", "a file", "something else")
        data = os.read(handle, MAX_SIZE + 1)
    except OSError as error:
        _refuse(path, error)
    finally:
        os.close(handle)
    if len(data) > MAX_SIZE:
        raise ConfigError(path, "", f"at most {MAX_SIZE} bytes", "more")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            path, "", "text in UTF-8", f"byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from None


def lines_of(text: str) -> List[str]:
    """As a shell and oVirt's own tools read a file: what else Unicode calls the end of a line (a form feed, U+2028) is
    a character like others. Taken for an end, it makes a second key out of one's value."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _refuse(path: PathLike, error: OSError) -> NoReturn:
    if error.errno == errno.ENOENT:
        raise ConfigError(path, "", "a readable file", "no such file") from None
    raise ConfigError(path, "", "a readable file", error.strerror or type(error).__name__) from None


def _new_file(target: str) -> Tuple[int, str]:
    """Beside ``target``, hidden, for its owner only. (The standard library's module for this brings compression and
    hashes along: 0.8 MB in each daemon, and 3 ms at every start of the command line.)"""
    directory, name = os.path.split(target)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(_TRIES):
        path = os.path.join(directory, f".{name}.{os.urandom(6).hex()}")
        try:
            return os.open(path, flags, 0o600), path
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.path.join(directory, f".{name}.*"))


def atomic_write(path: PathLike, data: bytes, mode: Optional[int] = None, durable: bool = True) -> None:
    """Replace a file as a whole: new file beside it, fsync, rename, fsync of the directory. Without ``mode`` the old
    file's mode is kept (0644 for a new one). Owner and group are kept as far as we may; a new file that root writes
    gets those of the directory. Not ``durable``: without the two fsyncs (each may wait for everything else that the
    disk has to write), for a file that a power loss takes with it anyway, as those below /run; readers see the old
    content or the new one all the same. Raises OSError; the old content is untouched then."""
    target = os.path.realpath(path)
    directory = os.path.dirname(target)
    handle, temporary = _new_file(target)
    try:
        with os.fdopen(handle, "wb") as file:
            _dress(file.fileno(), target, directory, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, target) from error  # a write that fails names no file itself
        raise
    if not durable:
        return
    directory_handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_handle)
    finally:
        os.close(directory_handle)


def _dress(handle: int, target: str, directory: str, mode: Optional[int]) -> None:
    try:
        old: Optional[os.stat_result] = os.stat(target)
    except FileNotFoundError:
        old = None
    model = old or os.stat(directory)
    if os.geteuid() == 0:
        os.fchown(handle, model.st_uid, model.st_gid)
    os.fchmod(handle, mode if mode is not None else (stat.S_IMODE(old.st_mode) if old else 0o644))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def shown(text: str) -> str:
    if not text:
        return NOTHING
    return repr(text if len(text) <= 80 else text[:77] + "...")


def locked(path: PathLike) -> int:
    """A descriptor that holds the exclusive lock of the file at ``path``, made if it was missing. Raises ConfigError
    after 5 s, OSError if the file cannot be opened for writing. Closing the descriptor releases the lock."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        try:
            if _lock(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() > deadline:
            raise ConfigError(path, "", f"its lock within {LOCK_SECONDS:.0f} s", "another process holding it (lslocks)")
        time.sleep(0.05)


def _lock(handle: int, path: PathLike) -> bool:
    """False: somebody else holds it, or the file was replaced while we asked, and our lock is on the old one."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), os.stat(path)):
            return False
    except (BlockingIOError, FileNotFoundError):
        return False
    _adopt_owner(handle, path)
    return True


def _adopt_owner(handle: int, path: PathLike) -> None:
    """A file that root made new in the daemons' directory must stay writable for them."""
    status = os.fstat(handle)
    if os.geteuid() == 0 and status.st_uid == 0 and status.st_size == 0:
        parent = os.stat(os.path.dirname(os.path.realpath(path)))
        os.fchown(handle, parent.st_uid, parent.st_gid)
