"""A real NFS server without a kernel's: nfs-ganesha in a network namespace of its own, with nothing but a loopback.

Configuration, pid file, log and the clients' records are in a private directory, and it is gone when its block ends.
"""

import ctypes
import ctypes.util
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

from tests.contract import own_mounts

NETWORK = 0x40000000  # CLONE_NEWNET
PORT = 2049
START_LIMIT = 20.0
LEASE = 10  # seconds after which the server forgets a client that is gone; 90 is usual
_PLUGINS = Path("/usr/lib/x86_64-linux-gnu/ganesha"), Path("/usr/lib64/ganesha"), Path("/usr/lib/ganesha")
_CONFIGURATION = """
NFS_CORE_PARAM {{
    Protocols = 3, 4; NFS_Port = {port}; Plugins_Dir = {plugins};
    Mount_Path_Pseudo = true; Enable_NLM = false; Enable_RQUOTA = false;
}}
NFSV4 {{
    Graceless = true; Lease_Lifetime = {lease}; RecoveryBackend = fs; RecoveryRoot = {private};
    Allow_Numeric_Owners = true; Only_Numeric_Owners = true;
}}
# Some tests change files behind the server's back: it must not answer from what it knew before.
EXPORT_DEFAULTS {{
    Protocols = 3, 4; Transports = TCP; SecType = sys; Squash = No_Root_Squash; Access_Type = RW;
    Attr_Expiration_Time = 0;
}}
EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /domain; FSAL {{ Name = VFS; }} }}
EXPORT {{ Export_Id = 2; Path = {export}; Pseudo = /read-only; Access_Type = RO; FSAL {{ Name = VFS; }} }}
EXPORT {{ Export_Id = 3; Path = {export}; Pseudo = /squashed; Squash = All_Squash; FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = EVENT; }}
"""


def _plugins():
    return next((str(each) for each in _PLUGINS if (each / "libfsalvfs.so").exists()), "")


def missing(directory="/tmp"):
    """What this machine lacks for it."""
    if own_mounts.missing():
        return own_mounts.missing()
    if not shutil.which("ganesha.nfsd", path="/usr/bin:/usr/sbin"):
        return "nfs-ganesha is missing: the NFS server"
    if not shutil.which("rpcbind", path="/usr/bin:/usr/sbin:/sbin"):
        return "rpcbind is missing: the NFS server's port mapper"
    if not _plugins():
        return "nfs-ganesha-vfs is missing: the NFS server's part that exports a directory"
    if not ctypes.util.find_library("nfs"):
        return "libnfs13 is missing: the NFS client"
    if not _gives_handles(directory):
        return f"the file system of {directory} gives no file handles, so nothing there can be exported"
    return ""


def _gives_handles(directory):
    libc = ctypes.CDLL(None, use_errno=True)
    handle = ctypes.create_string_buffer(8 + 128)
    ctypes.c_uint32.from_buffer(handle).value = 128
    mount = ctypes.c_int()
    return libc.name_to_handle_at(-100, os.fsencode(directory), handle, ctypes.byref(mount), 0) == 0


def run(body, directory, *arguments):
    """Call ``body(export, ...)`` as root in namespaces of its own, beside a server that exports ``export`` (a directory
    below ``directory``) as /domain, /read-only and /squashed; its errors fail the test."""
    own_mounts.run(_served, body, Path(directory), *arguments)


def _served(body, directory, *arguments):
    if ctypes.CDLL(None, use_errno=True).unshare(NETWORK):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"], check=True, timeout=10)
    export = directory / "export"
    export.mkdir()
    os.chmod(directory, 0o755)
    private = directory / "server"
    private.mkdir()
    # With version 3 a client asks the port mapper where the server is, and the server does not start without one.
    with _process(["rpcbind", "-f", "-w"], private / "rpcbind.log", 111), server(export, private):
        body(export, *arguments)


@contextmanager
def server(export, private):
    conf = private / "ganesha.conf"
    values = {"port": PORT, "lease": LEASE, "plugins": _plugins(), "export": export, "private": private}
    conf.write_text(_CONFIGURATION.format(**values))
    log = private / "log"
    argv = ["ganesha.nfsd", "-F", "-f", str(conf), "-p", str(private / "pid"), "-L", str(log)]
    with _process(argv, log, PORT) as process:
        yield process


@contextmanager
def _process(argv, log, port):
    """A daemon that has begun to answer; gone at the end."""
    with open(log, "ab") as said:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=_dies_with_us)
    try:
        _wait_until_it_answers(process, log, port)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _dies_with_us():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _wait_until_it_answers(process, log, port):
    until = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError(f"{process.args[0]} did not start (status {process.poll()}): {log.read_text()[-2000:]}")
