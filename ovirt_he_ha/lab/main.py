"""`he-lab`: a cluster of real daemons on this machine."""

import argparse
import json
import logging
import os
import shutil
import sys
from collections import deque
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence

from ovirt_he_ha.lab import appliance, cluster, control, faults, network, soak, state, status, view
from ovirt_he_ha.lab.drills import DRILLS
from ovirt_he_ha.lab.drills.report import Report
from ovirt_he_ha.lab.drills.series import Series
from ovirt_he_ha.lab.drills.stage import Stage
from ovirt_he_ha.lab.layout import (
    DEFAULT_HOSTS,
    DEFAULT_SCALE,
    MAX_HOSTS,
    MAX_SCALE,
    Lab,
    LabError,
    LabHost,
    directory_from,
)
from ovirt_he_ha.sim.options import Parser


def say(text: str) -> None:
    print(f"he-lab: {text}", file=sys.stderr, flush=True)


def up(arguments: argparse.Namespace) -> int:
    directory = directory_from(arguments.dir)
    management, second = network.choose(arguments.subnet, network.machine_networks())
    lab = Lab(
        directory=directory,
        hosts=arguments.hosts,
        scale=arguments.time_scale,
        management=management,
        second=second,
        interpreter=cluster.interpreter(),
        venv=cluster.virtual_environment(),
        daemons=not arguments.no_daemons,
    )
    cluster.up(lab, say, arguments.no_watchdog_host)
    if lab.daemons:
        took = Stage(lab).await_whole(say)
        say(f"the engine is healthy and every host protects it, {took:.1f} s after the hosts' start")
    say(f"{lab.hosts} hosts run in {lab.directory}, {lab.scale:g} product seconds per second")
    return 0


def down(arguments: argparse.Namespace) -> int:
    directory = directory_from(arguments.dir)
    say(f"removed {directory}" if cluster.down(directory) else f"there is no lab in {directory}")
    cache = appliance.cache_directory()
    if arguments.cache:
        shutil.rmtree(cache, ignore_errors=True)
    elif cache.exists():
        say(f"kept {cache}: the built appliance, for the next lab (`down --cache` removes it)")
    return 0


def execute(arguments: argparse.Namespace) -> int:
    lab = state.running_lab(directory_from(arguments.dir))
    host = lab.host(arguments.host)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    env = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    return cluster.inside(host, command or ["/bin/sh"], env=env, check=False).returncode


def show(arguments: argparse.Namespace) -> int:
    found = status.gather(state.running_lab(directory_from(arguments.dir)))
    print(json.dumps(found, indent=1) if arguments.json else status.render(found))
    return 0


def kill(arguments: argparse.Namespace) -> int:
    lab = state.running_lab(directory_from(arguments.dir))
    host = lab.host(arguments.host)
    faults.kill(host, arguments.what)
    say(f"killed: {arguments.what} of {host.name}")
    return 0


def hang(arguments: argparse.Namespace) -> int:
    lab = state.running_lab(directory_from(arguments.dir))
    faults.hang_vm(lab, arguments.how)
    say(f"the engine VM: {faults.HANGS[arguments.how]}")
    return 0


def _meant(arguments: argparse.Namespace) -> LabHost:
    lab = state.running_lab(directory_from(arguments.dir))
    return faults.engine_host(lab) if arguments.host is None else lab.host(arguments.host)


def pause(arguments: argparse.Namespace) -> int:
    host = _meant(arguments)
    faults.pause_vm(host)
    say(f"suspended: the engine VM on {host.name}")
    return 0


def resume(arguments: argparse.Namespace) -> int:
    host = _meant(arguments)
    faults.resume_vm(host)
    say(f"resumed: the engine VM on {host.name}")
    return 0


class WhichNetwork(LabError):
    def __init__(self, why: str) -> None:
        super().__init__(
            f"{why}: `network down` takes --host N (with --all: its second network, too) or --gateway; `network up` "
            "takes one of them, too, or nothing, which undoes all."
        )


def cables(arguments: argparse.Namespace) -> int:
    lab = state.running_lab(directory_from(arguments.dir))
    what, down = _cables_meant(lab, arguments), arguments.way == "down"
    if arguments.gateway:
        (faults.gateway_down if down else faults.gateway_up)(lab)
    elif arguments.host is None:
        faults.all_networks_up(lab)
    elif down:
        faults.network_down(lab.host(arguments.host), arguments.all)
    else:
        faults.network_up(lab.host(arguments.host))
    say(f"{arguments.way}: {what}")
    return 0


def _cables_meant(lab: Lab, arguments: argparse.Namespace) -> str:
    """Raises WhichNetwork, NoSuchHost."""
    if arguments.gateway and (arguments.all or arguments.host is not None):
        raise WhichNetwork("--gateway is the gateway of all hosts")
    if arguments.gateway:
        return f"the gateway {lab.gateway}"
    if arguments.host is not None:
        both = arguments.all or arguments.way == "up"
        return f"{'both networks' if both else 'the management network'} of {lab.host(arguments.host).name}"
    if arguments.way == "down":
        raise WhichNetwork("No host is named")
    return "every network of every host, and the gateway"


class NoDelay(LabError):
    def __init__(self, mode: str) -> None:
        super().__init__(f"--ms says how slow `storage slow` is; `storage {mode}` takes no time.")


def storage(arguments: argparse.Namespace) -> int:
    lab = state.running_lab(directory_from(arguments.dir))
    host = lab.host(arguments.host)
    if arguments.ms is not None and arguments.mode != view.SLOW:
        raise NoDelay(arguments.mode)
    parameters = {} if arguments.ms is None else {"milliseconds": arguments.ms}
    view.set_storage(host, arguments.mode, **parameters)
    say(f"storage of {host.name}: {arguments.mode}")
    return 0


def start_host(arguments: argparse.Namespace) -> int:
    lab = state.running_lab(directory_from(arguments.dir))
    control.call(lab.control, "power-on", hosts=[arguments.host])
    cluster.wait_services(lab, [arguments.host])
    say(f"powered on: {lab.host(arguments.host).name}")
    return 0


def logs(arguments: argparse.Namespace) -> int:
    lab = state.load_lab(directory_from(arguments.dir))
    hosts = [lab.host(arguments.host)] if arguments.host else [lab.host(host_id) for host_id in lab.host_ids]
    for path in log_files(hosts, arguments.service):
        print(f"==> {path}", flush=True)
        with open(path, encoding="utf-8", errors="replace") as stream:
            sys.stdout.writelines(deque(stream, maxlen=arguments.lines))
    return 0


def drill(arguments: argparse.Namespace) -> int:
    lab = state.running_lab(directory_from(arguments.dir))
    with state.drilling(lab.directory):
        stage = Stage(lab)
        missing = sorted(set(lab.host_ids) - set(stage.powered()))
        if missing:  # waiting would not bring it back
            raise cluster.HostOff(lab.host(missing[0]))
        if arguments.name != "all" and arguments.times == 1:
            report = DRILLS[arguments.name].hold(stage, arguments.leave, say)
            print(json.dumps(report.as_json()) if arguments.json else report.as_text())
            return 0 if report.passed else 1
        return _series(lab, arguments)


def _series(lab: Lab, arguments: argparse.Namespace) -> int:
    series = Series(lab, DRILLS, say)
    names = list(DRILLS) if arguments.name == "all" else [arguments.name]

    def told(report: Report) -> None:
        print(json.dumps(report.as_json()) if arguments.json else soak.line(report), flush=True)

    passed = series.run(names, arguments.times, told)
    for name, tally in series.tallies.items():
        say(f"{name}: {tally.text()}")
        for problem in tally.problems:
            say(f"  {problem}")
    return 0 if passed else 1


def endure(arguments: argparse.Namespace) -> int:
    lab = state.running_lab(directory_from(arguments.dir))
    with state.drilling(lab.directory):
        held = soak.Soak(lab, arguments.seed, say)
        figures = held.run(arguments.minutes * 60.0)
    print(json.dumps(figures, indent=None if arguments.json else 1))
    return 1 if held.failures or figures["two_ran_overall"] else 0


def log_files(hosts: Sequence[LabHost], service: str) -> List[Path]:
    names = [service] if service else ["broker", "agent"]
    found = [
        host.directory / "init.log" if name == "init" else host.log / f"{name}.log" for host in hosts for name in names
    ]
    return [path for path in found if path.exists()]


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="he-lab", description=__doc__)
    commands = top.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--dir", help="the lab's directory (default: $HE_LAB_DIR, else /var/lib/he-lab)")
        return added

    make = verb("up", "make a lab and start it")
    make.add_argument("--hosts", type=_whole(1, MAX_HOSTS), default=DEFAULT_HOSTS)
    make.add_argument("--time-scale", type=_scale, default=DEFAULT_SCALE)
    make.add_argument("--subnet", default="")
    make.add_argument("--no-daemons", action="store_true")
    unfenced = "this host has none, and its sanlock runs without; may be given several times"
    make.add_argument("--no-watchdog-host", type=int, action="append", default=[], metavar="N", help=unfenced)
    end = verb("down", "remove the lab, in whatever state it is")
    end.add_argument("--cache", action="store_true", help="and the appliance that is kept for the next lab")
    look = verb("status", "show the hosts and the engine")
    look.add_argument("--json", action="store_true")
    fault = verb("kill", "inject one fault and return at once")
    fault.add_argument("what", choices=faults.KINDS)
    fault.add_argument("--host", type=int, required=True)
    _fault_verbs(verb)
    again = verb("start-host", "power a host on again")
    again.add_argument("--host", type=int, required=True)
    held = verb("drill", "inject one fault, time the recovery, judge it, and restore the cluster")
    about = "; ".join(f"{d.name}: {d.about}" for d in DRILLS.values())
    held.add_argument("name", choices=[*sorted(DRILLS), "all"], help=f"{about}; all: one after the other")
    held.add_argument("--times", type=_whole(1, 1000), default=1, help="so many times in a row")
    held.add_argument("--json", action="store_true")
    held.add_argument("--leave", action="store_true", help="do not restore the cluster afterwards")
    long = verb("soak", "one random drill each minute, judged as a whole: availability, worst recovery, copies, memory")
    long.add_argument("--minutes", type=_whole(1, 100_000), default=60)
    long.add_argument(
        "--seed", type=_whole(0, 2**31), default=1, help="the same seed: the same faults in the same order"
    )
    long.add_argument("--json", action="store_true")
    text = verb("logs", "the last lines of the daemons' logs")
    text.add_argument("--host", type=int)
    text.add_argument("--service", default="", choices=["", "broker", "agent", "libvirtd", "sanlock", "wdmd", "init"])
    text.add_argument("--lines", type=int, default=20)
    run = verb("exec", "run a command inside a host")
    run.add_argument("--host", type=int, required=True)
    run.add_argument("command", nargs=argparse.REMAINDER)
    return top


def _fault_verbs(verb: Callable[[str, str], argparse.ArgumentParser]) -> None:
    hung = verb("hang", "hang the engine VM's guest, or undo that (--how ok); a new copy of the VM is well again")
    hung.add_argument("what", choices=["vm"])
    hung.add_argument("--how", choices=faults.HANGS, default="guest", help=_meanings(faults.HANGS) + " (default guest)")
    for name, text in (("pause", "suspend"), ("resume", "resume")):
        by_hand = verb(name, f"{text} the engine VM through libvirt, by hand")
        by_hand.add_argument("what", choices=["vm"])
        by_hand.add_argument("--host", type=int, help="needed only while two hosts have a process of the VM")
    cut = verb("network", "cut or restore cables; a host's reboot restores its own")
    cut.add_argument("way", choices=["down", "up"], help="`up` without options undoes every network fault")
    cut.add_argument("--host", type=int, help="this host's management network; with `up` its second one, too")
    cut.add_argument("--all", action="store_true", help="and the second network, of migrations")
    cut.add_argument("--gateway", action="store_true", help="the gateway, which all hosts lose at once")
    slow = verb("storage", "make the shared storage fail for one host; its reboot ends that")
    slow.add_argument("mode", choices=view.MODES, help=_meanings(STORAGE_MEANINGS))
    slow.add_argument("--host", type=int, required=True)
    slow.add_argument("--ms", type=_whole(1, 600_000), help=SLOW_HELP)


SLOW_HELP = "wall milliseconds per access with `slow` (default: 3 product seconds)"
STORAGE_MEANINGS = {
    view.OK: "works again; what hung goes on",
    view.HANG: "nothing is answered",
    view.ERROR: "reads and writes fail with EIO",
    view.SLOW: "each access takes long",
}


def _meanings(words: Mapping[str, str]) -> str:
    return "; ".join(f"{word}: {meaning}" for word, meaning in words.items()).replace("%", "%%")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}")
        return int(text)

    return parse


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= MAX_SCALE:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MAX_SCALE:g}")
    return value


VERBS: Dict[str, Callable[[argparse.Namespace], int]] = {
    "up": up,
    "down": down,
    "exec": execute,
    "status": show,
    "kill": kill,
    "hang": hang,
    "pause": pause,
    "resume": resume,
    "network": cables,
    "storage": storage,
    "start-host": start_host,
    "logs": logs,
    "drill": drill,
    "soak": endure,
}


def main(argv: Optional[List[str]] = None) -> int:
    arguments = parser().parse_args(argv)
    os.umask(0o022)  # another user's daemons read what we write, whatever the operator's own files are like
    logging.basicConfig(level=logging.WARNING, format="he-lab: %(message)s")
    try:
        return VERBS[arguments.verb](arguments)
    except LabError as e:
        say(str(e))
        return 1
    except OSError as e:
        say(f"{e}. If the lab was removed or crashed meanwhile, that is why; `he-lab down` clears what is left")
        return 1
    except KeyboardInterrupt:
        say("interrupted; `he-lab down` removes what is there")
        return 130


if __name__ == "__main__":
    sys.exit(main())
