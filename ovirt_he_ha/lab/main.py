"""`he-lab`: a cluster of real daemons on this machine."""

import argparse
import json
import logging
import os
import shutil
import sys
from collections import deque
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

from ovirt_he_ha.lab import appliance, cluster, control, faults, network, state, status
from ovirt_he_ha.lab.drills import DRILLS
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
    cluster.up(lab, say)
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
        report = DRILLS[arguments.name].hold(stage, arguments.leave, say)
    print(json.dumps(report.as_json()) if arguments.json else report.as_text())
    return 0 if report.passed else 1


def log_files(hosts: Sequence[LabHost], service: str) -> List[Path]:
    names = [service] if service else ["broker", "agent"]
    found = [
        host.directory / "init.log" if name == "init" else host.log / f"{name}.log" for host in hosts for name in names
    ]
    return [path for path in found if path.exists()]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="he-lab", description=__doc__)
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
    end = verb("down", "remove the lab, in whatever state it is")
    end.add_argument("--cache", action="store_true", help="and the appliance that is kept for the next lab")
    look = verb("status", "show the hosts and the engine")
    look.add_argument("--json", action="store_true")
    fault = verb("kill", "inject one fault and return at once")
    fault.add_argument("what", choices=faults.KINDS)
    fault.add_argument("--host", type=int, required=True)
    again = verb("start-host", "power a host on again")
    again.add_argument("--host", type=int, required=True)
    held = verb("drill", "inject one fault, time the recovery, judge it, and restore the cluster")
    held.add_argument("name", choices=sorted(DRILLS), help="; ".join(f"{d.name}: {d.about}" for d in DRILLS.values()))
    held.add_argument("--json", action="store_true")
    held.add_argument("--leave", action="store_true", help="do not restore the cluster afterwards")
    text = verb("logs", "the last lines of the daemons' logs")
    text.add_argument("--host", type=int)
    text.add_argument("--service", default="", choices=["", "broker", "agent", "libvirtd", "sanlock", "init"])
    text.add_argument("--lines", type=int, default=20)
    run = verb("exec", "run a command inside a host")
    run.add_argument("--host", type=int, required=True)
    run.add_argument("command", nargs=argparse.REMAINDER)
    return top


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
    "start-host": start_host,
    "logs": logs,
    "drill": drill,
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
