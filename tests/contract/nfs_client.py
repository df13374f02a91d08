"""An NFS client in this process (libnfs), version 3 or 4, and what the product needs of a file system over it: the
product's own code looks at a domain, reads and writes it through the protocol, where the kernel has no NFS."""

import ctypes
import ctypes.util
import errno
import itertools
import os
import stat
import struct
from contextlib import contextmanager

from ovirt_he_ha.storage.archive import ArchiveBytes
from ovirt_he_ha.storage.domain_files import VolumeFiles
from ovirt_he_ha.storage.io_process import IoFailure, VolumeLook

SERVER = b"127.0.0.1"
ROOT, DAEMONS, STRANGER = (0, 0), (36, 36), (1000, 1000)
_READ = 1 << 18
_WRITE = {3: 1 << 18, 4: 3584}  # bytes of one request; with version 4 libnfs 4.0 cannot send more
_SERIAL = itertools.count(1)
_RESULTS = (
    *("nfs_mount", "nfs_umount", "nfs_open2", "nfs_close", "nfs_pread", "nfs_pwrite", "nfs_fsync", "nfs_stat64"),
    *("nfs_opendir", "nfs_mkdir2", "nfs_chown", "nfs_chmod", "nfs_ftruncate", "nfs_fcntl", "nfs_unlink", "nfs_rename"),
)
_POINTERS = ("nfs_init_context", "nfs_readdir")


class _Stat(ctypes.Structure):
    _names = "dev ino mode nlink uid gid rdev size blksize blocks atime mtime ctime atime_n mtime_n ctime_n used"
    _fields_ = [(name, ctypes.c_uint64) for name in _names.split()]


class _Entry(ctypes.Structure):
    _fields_ = [("next", ctypes.c_void_p), ("name", ctypes.c_char_p), ("inode", ctypes.c_uint64)]


class _Flock(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("whence", ctypes.c_int),
        ("pid", ctypes.c_uint32),
        ("start", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
    ]


def _library():
    library = ctypes.CDLL(ctypes.util.find_library("nfs"))
    for name in _RESULTS:
        getattr(library, name).restype = ctypes.c_int
    for name in _POINTERS:
        getattr(library, name).restype = ctypes.c_void_p
    library.nfs_get_error.restype = ctypes.c_char_p
    return library


class Client:
    """One client of the server: its own connection, name and locks. ``who``: user and group that it works as. Errors
    are OSError, with the errno that a kernel's client would give."""

    def __init__(self, version=4, export="/domain", who=DAEMONS):
        self._most = _WRITE[version]
        self._library = _library()
        self._context = ctypes.c_void_p(self._library.nfs_init_context())
        number = next(_SERIAL)
        self._name = ctypes.create_string_buffer(f"he-test-{os.getpid()}-{number}".encode())  # libnfs keeps the pointer
        self._library.nfs_set_version(self._context, version)
        if version == 4:
            self._library.nfs4_set_client_name(self._context, self._name)
            self._library.nfs4_set_verifier(self._context, struct.pack("!II", os.getpid(), number))
        self._library.nfs_set_uid(self._context, who[0])
        self._library.nfs_set_gid(self._context, who[1])
        self._library.nfs_umask(self._context, 0)
        self._library.nfs_set_timeout(self._context, 15000)
        self._call("nfs_mount", SERVER, export.encode())

    def close(self):
        self._library.nfs_destroy_context(self._context)

    def _call(self, name, *arguments):
        done = getattr(self._library, name)(self._context, *arguments)
        if done < 0:
            said = (self._library.nfs_get_error(self._context) or b"").decode(errors="replace")
            raise OSError(-done, f"{name}: {said}")
        return done

    @contextmanager
    def opened(self, path, flags, mode=0):
        handle = self.open(path, flags, mode)
        try:
            yield handle
        finally:
            self._call("nfs_close", handle)

    def open(self, path, flags, mode=0):
        handle = ctypes.c_void_p()
        self._call("nfs_open2", path.encode(), flags, mode, ctypes.byref(handle))
        return handle

    def read_at(self, handle, offset, length):
        """Fewer bytes where the file ends."""
        parts = []
        while length > 0:
            buffer = ctypes.create_string_buffer(min(length, _READ))
            got = self._call(
                "nfs_pread", handle, ctypes.c_uint64(offset), ctypes.c_uint64(len(buffer)), ctypes.byref(buffer)
            )
            if got == 0:
                break
            parts.append(buffer.raw[:got])
            offset, length = offset + got, length - got
        return b"".join(parts)

    def write_at(self, handle, offset, data):
        """On the server's disk when it returns."""
        done = 0
        while done < len(data):
            part = data[done : done + self._most]
            done += self._call("nfs_pwrite", handle, ctypes.c_uint64(offset + done), ctypes.c_uint64(len(part)), part)
        self._call("nfs_fsync", handle)

    def stat(self, path):
        found = _Stat()
        self._call("nfs_stat64", path.encode(), ctypes.byref(found))
        return found

    def names(self, path):
        directory = ctypes.c_void_p()
        self._call("nfs_opendir", path.encode(), ctypes.byref(directory))
        try:
            found = []
            while True:
                entry = self._library.nfs_readdir(self._context, directory)
                if not entry:
                    return sorted(name for name in found if name not in (".", ".."))
                found.append(os.fsdecode(_Entry.from_address(entry).name))
        finally:
            self._library.nfs_closedir(self._context, directory)

    def make_directory(self, path, mode=0o755):
        self._call("nfs_mkdir2", path.encode(), mode)

    def make(self, path, data, mode=0o660):
        with self.opened(path, os.O_CREAT | os.O_RDWR, mode) as handle:
            self.write_at(handle, 0, data)
        self._call("nfs_chmod", path.encode(), mode)  # libnfs makes it 0600 with version 4

    def lock(self, handle, kind, start, length):
        """Without waiting. ``kind``: fcntl.F_RDLCK, F_WRLCK or F_UNLCK. Raises BlockingIOError where another owner has
        it; such a client is of no use any more (libnfs does not count requests that were refused)."""
        wanted = _Flock(kind, os.SEEK_SET, os.getpid(), start, length)
        try:
            self._call("nfs_fcntl", handle, 0, ctypes.byref(wanted))
        except OSError as error:
            if "NFS4ERR_DENIED" in str(error):  # which libnfs has no errno for
                raise BlockingIOError(errno.EAGAIN, str(error)) from error
            raise


class Files(VolumeFiles):
    """What the product looks at a domain with, over NFS."""

    def __init__(self, client):
        self._client = client

    def is_directory(self, path):
        try:
            return stat.S_ISDIR(self._client.stat(path).mode)
        except OSError:
            return False

    def text(self, path):
        return self._read(path, 0, 1 << 16)

    def look(self, path):
        try:
            found = self._client.stat(path)
            with self._client.opened(path, os.O_RDONLY):
                pass
        except OSError as error:
            raise IoFailure.of(error) from error
        facts = (found.size, 512, False)
        owner = (found.uid, found.gid)
        try:
            with self._client.opened(path, os.O_RDWR):
                return VolumeLook(*facts, owner=owner)
        except OSError as error:
            failure = IoFailure.of(error)
            return VolumeLook(*facts, failure.code, failure.error, owner)

    def names(self, path):
        try:
            return self._client.names(path)
        except OSError as error:
            raise IoFailure.of(error) from error

    def number(self, path):
        try:
            return self._client.stat(path).ino
        except OSError as error:
            raise IoFailure.of(error) from error

    def read(self, path, offset, length):
        data = self._read(path, offset, length)
        if len(data) < length:
            raise IoFailure("too-small")
        return data

    def _read(self, path, offset, length):
        try:
            with self._client.opened(path, os.O_RDONLY) as handle:
                return self._client.read_at(handle, offset, length)
        except OSError as error:
            raise IoFailure.of(error) from error


class Archive(ArchiveBytes):
    """The configuration volume at ``path``, over NFS."""

    def __init__(self, client, path):
        self._client = client
        self.path = path

    def read(self, length):
        return Files(self._client).read(self.path, 0, length)

    def write(self, data, offset):
        try:
            with self._client.opened(self.path, os.O_RDWR) as handle:
                self._client.write_at(handle, offset, data)
        except OSError as error:
            raise IoFailure.of(error) from error
