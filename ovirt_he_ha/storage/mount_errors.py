"""What mount and umount say, and what it means for the operator. Their words are those of the C locale."""

import re
from typing import Tuple

from ovirt_he_ha.storage.command import CommandError
from ovirt_he_ha.storage.errors import ConnectionProblem
from ovirt_he_ha.storage.mount_kinds import MountPlan

_PACKAGES = {
    "nfs": "nfs-utils (EL) or nfs-common (Debian)",
    "nfs4": "nfs-utils (EL) or nfs-common (Debian)",
    "glusterfs": "glusterfs-fuse (EL) or glusterfs-client (Debian)",
    "ceph": "ceph-common",
}

# What is said, code, what is expected, what to do. The first that is found counts.
_WORDS: Tuple[Tuple[str, str, str, str], ...] = (
    (
        r"target is busy|device is busy|is busy or already mounted",
        "busy",
        "no process that uses it",
        "end what uses it (lsof +f -- {target}): the VM, the daemons, a shell in that directory",
    ),
    (
        r"stale file handle",
        "stale",
        "an export that is the one of before",
        "the server made it anew: look at its exports (exportfs -ra there), then connect again",
    ),
    (
        r"need a /sbin/mount\.|unknown filesystem type|no such device",
        "no-helper",
        "a host that can mount {type}",
        "install {package}, or load the kernel's module for it",
    ),
    (
        r"access denied by server|permission denied|operation not permitted",
        "no-access",
        "an export to this host, readable and writable for 36:36 (vdsm:kvm)",
        "allow this host on the server (/etc/exports, or the storage's access list)",
    ),
    (
        r"version or transport protocol is not supported|protocol not supported",
        "nfs-version",
        "a version of NFS that the server speaks",
        "set nfs_version= to another one on every host, or enable it on the server",
    ),
    (
        r"(failed to resolve|dns resolution failed|name or service not known|temporary failure in name resolution)",
        "no-server",
        "a server name that can be looked up",
        "correct storage=, or the name service; an address works without one",
    ),
    (
        r"connection refused|no route to host|network is unreachable|timed out|host is down|unable to connect",
        "no-server",
        "a server that answers",
        "look whether it runs, is reached from this host, and lets the ports of {type} through its firewall",
    ),
    (
        r"wrong fs type|bad superblock|structure needs cleaning",
        "metadata",
        "an undamaged file system of type {type}, and options that it knows",
        "look into the kernel log; is it the right device? (mounted with -o {options})",
    ),
    (
        r"incorrect mount option|bad option|invalid argument|parsing error on",
        "options",
        "options that mount knows",
        "correct mnt_options= (mounted with -o {options})",
    ),
    (
        r"reason given by server: no such file|no such file or directory|special device .* does not exist|"
        r"mounting .* failed|mount failed",
        "no-export",
        "an export of that name on the server",
        "correct storage=, or export it (showmount -e SERVER lists what is there)",
    ),
    (
        r"read-only",
        "read-only",
        "a file system that can be written",
        "look at the export's options, and into the kernel log",
    ),
)


def mount_problem(plan: MountPlan, error: CommandError) -> ConnectionProblem:
    """The command's failure as one of the export, with the command's words at its end."""
    code, expected, what_to_do = _meaning(error)
    words = {
        "type": plan.type,
        "target": plan.target,
        "options": plan.options,
        "package": _PACKAGES.get(plan.type, f"the package with mount.{plan.type}"),
    }
    return ConnectionProblem(code, plan.source, expected.format(**words), what_to_do.format(**words), str(error))


def _meaning(error: CommandError) -> Tuple[str, str, str]:
    if error.code in ("overdue", "stuck"):
        return "silent", "an answer of the server in time", "look whether the server runs and is reached from this host"
    if error.code == "absent":
        return "no-helper", "the program mount", "install util-linux"
    said = error.said.lower()
    for words, code, expected, what_to_do in _WORDS:
        if re.search(words, said):
            return code, expected, what_to_do
    return "command", "to be mounted", "look into the kernel log (dmesg) and at the server"
