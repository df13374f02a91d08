"""Every verb, its options, its help: one table. Importing it costs nothing, so that ``--help`` and a typing error
answer at once. The usage, the completion of both shells and the man page are made from it."""

from typing import Dict, List, Mapping, NamedTuple, Tuple

FLAG = ""  # an option without a value


class Verb(NamedTuple):
    """``module`` of this package and ``function(Request) -> exit status`` in it.

    ``options`` maps a name to FLAG or to what its value is called: ``file`` and ``directory`` are completed from the
    disk, ``this|that`` from the words; in brackets (``[seconds]``) the value may be left out, and is given by ``=``
    only. ``words``: the words without dashes, by name, ``...`` for any number; empty: there are none. ``summary``: one
    line without a period; ``details``: whole lines, with the exit status where it is more than 0 and 1.
    ``reads_itself``: its options may be repeated and their order counts, so the module is given all words as they are.
    """

    module: str
    function: str
    options: Mapping[str, str]
    summary: str
    details: str = ""
    words: str = ""
    reads_itself: bool = False


_TYPES = "he_local|he_shared|ha|broker"

VERBS: Dict[str, Verb] = {
    "--vm-status": Verb(
        "status",
        "vm_status",
        {"--json": FLAG, "--table": FLAG, "--watch": FLAG, "--stream": FLAG},
        "show all hosts and the engine VM as the cluster sees them",
        "Asks the broker; where it does not answer within a second, reads the volume and asks sanlock directly.\n"
        "--table shows one line per host, this one with a star; --watch keeps it on the screen and draws it again\n"
        "when something has changed; --stream prints what --json does, one line at once and one for each change.\n"
        "--json prints one object on one line: hosts by id, and global_maintenance. On an error it is\n"
        '{"error": {"code": ..., "message": ...}}.\n'
        "Exit status: 0; 1 no host has published, or an error; 2 a deployment was left half done.",
    ),
    "--why": Verb(
        "why",
        "why",
        {"--json": FLAG, "--host": "id"},
        "say why the engine VM is where it is, or is not starting, and what comes next and when",
        "The first line is the answer; then each host: what it waits for, until when, its score with every penalty.\n"
        "Times are corrected by the age of what was read. --host shows one host. docs/why.md explains the members of\n"
        "the object that --json prints.\n"
        "Exit status: 0; 1 no host has published, or an error.",
    ),
    "--protection": Verb(
        "protection",
        "protection",
        {"--json": FLAG},
        "show what guards the engine VM on every host, what is missing, and how long each fault takes",
        "One host shows the whole cluster. What a host cannot tell is not known, which is never protected.\n"
        "--json prints one object on one line (docs/protection.md).\n"
        "Exit status: 0 protected; 3 degraded; 4 unprotected; 1 an error.",
    ),
    "--check-deployed": Verb(
        "status",
        "check_deployed",
        {},
        "exit 0 if this host is deployed, else 1",
        "Prints one line and changes nothing.",
    ),
    "--check-liveliness": Verb(
        "status",
        "check_liveliness",
        {},
        "ask the engine's health page",
        "Waits at most 20 s. Exit status: 0 up; 1 down; 2 the page's address is not configured.",
    ),
    "--set-maintenance": Verb(
        "maintenance",
        "set_maintenance",
        {"--mode": "global|local|none", "--reason": "text", "--wait": "[seconds]"},
        "enter or leave maintenance",
        "global  no host starts, stops or moves the engine VM\n"
        "local   this host gives the engine VM away and takes none; global maintenance stays as it is\n"
        "none    ends both, on this host and for the cluster\n"
        "--reason is kept, written into the ledger and shown on every host with the maintenance it began or ended.\n"
        "Returns when the change is on disk: the global flag is read back from the shared volume, within 30 s.\n"
        "--wait waits until it has come into effect: local, the VM has left this host (900 s unless told otherwise);\n"
        "global and none, every live host says so (60 s).",
    ),
    "--cluster-stop": Verb(
        "cluster",
        "cluster_stop",
        {"--wait": "seconds", "--force": FLAG, "--reason": "text", "--json": FLAG},
        "stop the whole cluster as planned: afterwards the hosts may be powered off",
        "Run it on the host that has the engine VM: no host stops its VM because of what another writes. Where the\n"
        "guest was shut down from within, in global maintenance, any host does the rest.\n"
        "Stop the other VMs before: nobody does it without the engine.\n"
        "1 looking        where the engine VM runs; if elsewhere, the host and what to type there are named, and "
        "nothing changes\n"
        "2 maintenance    global maintenance is set, and read back from the volume\n"
        "3 acknowledging  every live host has seen it, so none starts the VM again\n"
        "4 shutting-down  the guest is asked to shut down; with --force it is powered off when it does not\n"
        "5 releasing      no host has the VM or its lease\n"
        "Each step says how long it waits at most; --wait=SECONDS is for all together. Ctrl-C, a broker or a storage\n"
        "that fails, and a guest that stays end it in the step's state, and the same command goes on from there.\n"
        "What is done already is not done again. --reason is shown with the maintenance.\n"
        "Exit status: 0 stopped; 1 not, and in which step; 130 interrupted.",
    ),
    "--cluster-start": Verb(
        "cluster",
        "cluster_start",
        {"--wait": "seconds", "--json": FLAG},
        "start the whole cluster again after --cluster-stop: once the storage and the hosts are on",
        "On any host.\n"
        "1 storage        the shared volume can be read\n"
        "2 lockspaces     this host has joined both\n"
        "3 hosts          every known host is there; after 120 s it goes on, and names those that are missing\n"
        "4 maintenance    global maintenance ends, read back from the volume\n"
        "5 starting       a host starts the engine VM, and the engine is healthy; meanwhile it says what --why says\n"
        "Waits, interruptions and a second run as for --cluster-stop.\n"
        "Exit status: 0 started; 3 the engine is up, but hosts are missing; 1 not, and in which step; 130 interrupted.",
    ),
    "--host-shutdown": Verb(
        "host_shutdown",
        "host_shutdown",
        {"--if-going-down": FLAG, "--wait": "[seconds]", "--cancel": FLAG},
        "move or end the engine VM before this host goes down",
        "ovirt-ha-host-shutdown.service runs it at a shutdown or reboot; until it returns, systemd stops nothing that\n"
        "a move needs. One try of a live migration; then the guest is asked to shut down (60 s) and powered off, and\n"
        "another host starts it. Takes 600 s at most, or what --wait says (to 3600). Global maintenance forbids it.\n"
        "The host counts as in local maintenance meanwhile, and until it is up again; ha.conf is not changed.\n"
        "--if-going-down does nothing unless systemd is stopping the host; --cancel: it does not go down after all.",
    ),
    "--vm-start": Verb(
        "vm",
        "start",
        {"--vm-conf": "file", "--wait": "[seconds]"},
        "start the engine VM on this host",
        "Refused, with the owner's name, while another host holds or may hold the VM's lease.\n"
        "Returns when libvirt has made the VM, usually within 2 s, at most after 60.\n"
        "--vm-conf uses another definition for this start; it is checked in the same way.\n"
        "--wait waits until the engine answers with good health, 600 s unless told otherwise.",
    ),
    "--vm-shutdown": Verb(
        "vm",
        "shutdown",
        {"--wait": "[seconds]"},
        "ask the guest to shut down",
        "Asks the guest's agent, and presses the power button where there is none (after 5 s, if it does not answer).\n"
        "Set global maintenance first if the VM is to stay down.\n"
        "--wait waits until the VM has ended, 120 s unless told otherwise.",
    ),
    "--vm-poweroff": Verb(
        "vm",
        "poweroff",
        {"--wait": "[seconds]"},
        "power the engine VM off without asking the guest",
        "Done when no process of the VM is left; needs neither the broker nor libvirt.\n"
        "--wait waits longer than 2 s for a process that hangs in its storage, 30 s unless told otherwise.",
    ),
    "--vm-migrate": Verb(
        "vm",
        "migrate",
        {"--host": "id", "--wait": "[seconds]"},
        "move the running engine VM from this host to another",
        "Live migration: the guest goes on. Without --host the live host with the best score takes it.\n"
        "Returns when the move has begun. It is aborted, and the VM stays, after 120 s and 1 s for each 32 MiB of its "
        "memory.\n"
        "--wait waits for its end; with a number of seconds, or Ctrl-C, it is aborted then.",
    ),
    "--console": Verb(
        "console",
        "console",
        {},
        "open the engine VM's serial console on this terminal",
        "Ctrl-] leaves it. The VM must run on this host.",
    ),
    "--add-console-password": Verb(
        "console",
        "add_password",
        {"--password": "password"},
        "set a password for the engine VM's VNC console, for 120 s",
        "Without --password it is taken from OVIRT_HOSTED_ENGINE_CONSOLE_PASSWORD, or asked for on the terminal.\n"
        "1 to 8 characters: VNC takes no more. Open connections stay. Prints the address to connect to.",
    ),
    "--get-shared-config": Verb(
        "configuration",
        "get_shared",
        {"--type": _TYPES, "--json": FLAG},
        "show one value of the configuration",
        "he_local   hosted-engine.conf of this host\n"
        "he_shared  the same for hosts that are deployed later, on the shared storage\n"
        "ha         this host's maintenance\n"
        "broker     notifications, on the shared storage; keys are section.option\n"
        "Without --type the one that has the key; of an unknown key all are listed.",
        words="key",
    ),
    "--set-shared-config": Verb(
        "configuration",
        "set_shared",
        {"--type": _TYPES},
        "change one value of the configuration",
        "Types as for --get-shared-config. A value that does not fit its key is refused, and nothing is changed.\n"
        "With - for the value it is asked for, or read as one line from standard input: a password on a command line "
        "is seen by every user of the host.\n"
        "On the shared storage it is read back, and two hosts that change it at once wait for each other; that may "
        "take 20 s.\n"
        "Prints nothing on standard output.",
        words="key value",
    ),
    "--restore-shared-config": Verb(
        "configuration",
        "restore_shared",
        {"--force": FLAG, "--json": FLAG},
        "put the shared configuration back as it was before its last change",
        "All of it: hosted-engine.conf for new hosts, notifications, the VM's first definition. Prints which of them\n"
        "differed, after 20 s at most. Asked again, it undoes itself. Refused if an oVirt tool, which keeps no copy,\n"
        "changed something since: --force loses that change as well.",
    ),
    "--connect-storage": Verb(
        "storage",
        "connect",
        {"--accept-copy": FLAG},
        "connect this host to the storage domain",
        "Mounts it (nfs, nfs3, nfs4, glusterfs, posixfs), or logs in and activates the volumes that the hosted engine "
        "needs\n"
        "(iscsi, fc), and checks that it is the domain of this deployment, the copy that this host knows, and can be "
        "written\n"
        "to, within 60 s; what is connected already is only checked. Where vdsm runs on this host, the domain is found "
        "and\n"
        "nothing is changed. As root, except for domainType=local.\n"
        "--accept-copy  the domain was restored or moved on purpose, and no host uses the one from before",
    ),
    "--disconnect-storage": Verb(
        "storage",
        "disconnect",
        {},
        "disconnect this host from the storage domain",
        "Unmounts it, or deactivates its volumes and logs out of targets that nothing else uses, within 60 s; refused\n"
        "while anything uses it. For domainType=local, and where vdsm runs, there is nothing to do.",
    ),
    "--check-storage": Verb(
        "volumes",
        "check",
        {"--json": FLAG},
        "explain what lies in the storage domain, and what of it has to be mended",
        "Each volume: size, owner, sectors, and what its first bytes say it is; each host's slot: published, stopped,\n"
        "orphaned (no host holds its id), corrupt or foreign. Changes nothing, and needs neither broker nor sanlock.\n"
        "Exit status: 0 all is as it should be; 3 something has to be mended; 1 an error.",
    ),
    "--create-volume": Verb(
        "volumes",
        "create",
        {"--volume": "metadata|lockspace|configuration", "--force": FLAG},
        "make a volume anew that was lost",
        "metadata       zeros; each host writes its slot anew within 10 s\n"
        "lockspace      zeros; then --reinitialize-lockspace --force\n"
        "configuration  with this host's copies of the settings; needs the lockspace\n"
        "A volume that holds something is refused; --force overwrites it, but never slots or a lockspace that can be\n"
        "read. A logical volume that is missing is made by root, on one host, while no management application manages\n"
        "the domain (--force: nevertheless), within 120 s. What a failure left half made is removed again.",
    ),
    "--clean-metadata": Verb(
        "storage",
        "clean_metadata",
        {"--host-id": "id", "--force-cleanup": FLAG},
        "blank the slot of one host",
        "Without --host-id this host's. Refused for a host that did not stop cleanly, unless forced, and for "
        "a host that\n"
        "is publishing: stop its agent first. A slot that is blank already is no error.",
    ),
    "--reinitialize-lockspace": Verb(
        "storage",
        "reinitialize_lockspace",
        {"--force": FLAG, "--storage-domain": FLAG},
        "write the lockspace of the host ids anew",
        "Refused unless global maintenance is on and every known host has stopped cleanly; --force skips that check.\n"
        "Takes up to 120 s on slow storage.\n"
        "--storage-domain  instead the lockspace of the storage domain and the VM's lease, when they are damaged and "
        "every\n"
        "                  host is stopped: watches up to 160 s that no host renews its id. Nothing forces it.",
    ),
    "--history": Verb(
        "history",
        "history",
        {"--since": "time", "--json": FLAG},
        "show what changed on this host: states, actions, the VM, its lease, maintenance, protection",
        "--since takes a duration (90s, 30m, 2h, 3d, 1w) or a time (14:00, 2024-05-31T14:00), by the wall clock.\n"
        "A host keeps its newest lines, 1 MiB of them, in /var/lib/ovirt-hosted-engine-ha/ledger.jsonl and\n"
        "ledger.1.jsonl. Lines that a crash tore are named on standard error and left out.",
    ),
    "--audit": Verb(
        "history",
        "audit_ledgers",
        {"--json": FLAG},
        "check from the hosts' ledgers that the VM never ran twice at once",
        "Reads this host's ledger and those that are given: copies of other hosts' ledger.jsonl and ledger.1.jsonl,\n"
        "or directories with both. Bring them here first: hosts share nothing but the storage.\n"
        "Compared are the lease's own counters, never a clock of one host with that of another.\n"
        "Exit status: 0 all in order; 1 an overlap, or an error; 3 no overlap found, but not everything can be put in "
        "order.",
        words="file ...",
    ),
    "--simulate": Verb(
        "simulate",
        "simulate",
        {
            "--fail-host": "host",
            "--network-loss": "host",
            "--storage-hang": "seconds[:host]",
            "--storage-error": "seconds[:host]",
            "--crash-vm": FLAG,
            "--hang-vm": FLAG,
            "--maintenance": "host",
            "--global-maintenance": FLAG,
            "--no-migration": FLAG,
            "--at": "seconds",
            "--for": "seconds",
            "--boot-time": "seconds",
            "--runs": "number",
            "--seed": "number",
            "--snapshot": FLAG,
            "--json": FLAG,
        },
        "show what would happen, and for how long the engine would be away, if something failed now",
        "Changes nothing. A simulated cluster begins as this one is now (hosts, scores, maintenance, who has the VM)\n"
        "and runs the same code as the hosts, 20 times. It prints who does what and why, and the shortest, the usual\n"
        "and the longest outage beside what the hosts announce. Without a fault: what happens by itself.\n"
        "Faults may be combined and repeated; a host is an id, a host's name, or engine (where the VM is).\n"
        "--fail-host       power loss\n"
        "--network-loss    its management network; --no-migration: live migration does not work either\n"
        "--storage-hang    the storage hangs for so many seconds, on one host or on all; --storage-error: it fails\n"
        "--crash-vm        the VM's process is killed; --hang-vm: the appliance's kernel halts\n"
        "--maintenance     the host's local maintenance; --global-maintenance: the cluster's\n"
        "--at, --for       when the fault before it begins, and how long it lasts: --fail-host=2 --at=30 --for=600\n"
        "--boot-time       of the appliance; otherwise as in its last starts on this host\n"
        "--runs, --seed    how many runs (1 to 1000), and the first one's seed; same snapshot and seed, same answer\n"
        "--snapshot        print what it would begin with, for he-sim what-if FILE on another machine\n"
        "Three hosts take some seconds, hundreds a minute. Without the broker the volume is watched first, for 16 s.\n"
        "Exit status: 0 the engine comes back; 1 an error; 3 in some run it does not come back.",
        reads_itself=True,
    ),
    "--version": Verb("version", "show", {}, "show the version"),
}

_LATER = "this version does not offer it yet; README.md, On a real host, says what a host needs"

# Answered, so that who comes from another version learns what to do.
GONE: Dict[str, str] = {
    "--vm-start-paused": "not offered: a paused VM holds no lease and must never run again, see --vm-start",
    "--start-pool": "removed: there is no storage pool to start",
    "--upgrade-appliance": "removed: back the engine up and deploy again with the backup",
    "--rollback-upgrade": "removed together with --upgrade-appliance",
    "--vm-status-detailed": "never existed: use --vm-status",
    "--deploy": _LATER,
    "--config-append": "an option of --deploy, which this version does not offer yet",
}


def is_optional(kind: str) -> bool:
    return kind.startswith("[")


def choices(kind: str) -> Tuple[str, ...]:
    """The words that a value may be, where they are few and known."""
    return tuple(kind.strip("[]").split("|")) if "|" in kind else ()


def spelled_option(option: str, kind: str) -> str:
    if is_optional(kind):
        return f"{option}[={kind[1:-1]}]"
    return f"{option}={kind}" if kind else option


def spelled(name: str, verb: Verb) -> str:
    """The verb with its words and options, as in the usage."""
    parts = [name]
    if verb.words:
        parts.append(f"[{verb.words}]" if verb.words.endswith("...") else verb.words)
    parts += [f"[{spelled_option(option, kind)}]" for option, kind in verb.options.items()]
    return " ".join(parts)


def usage() -> str:
    lines: List[str] = ["Usage: hosted-engine COMMAND [OPTIONS]", "", "Commands:"]
    for name, verb in VERBS.items():
        lines += [f"  {spelled(name, verb)}", f"      {verb.summary}"]
    lines += ["", "hosted-engine COMMAND --help says more about one of them."]
    return "\n".join(lines) + "\n"


def help_of(name: str) -> str:
    verb = VERBS[name]
    text = f"Usage: hosted-engine {spelled(name, verb)}\n    {verb.summary}\n"
    return text + (f"\n{verb.details}\n" if verb.details else "")
