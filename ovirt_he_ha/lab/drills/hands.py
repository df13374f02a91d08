"""Somebody does by hand what must not be done: a second broker, a second VM."""

import time
from typing import Any, Dict, List

from ovirt_he_ha.lab import cluster, control, services
from ovirt_he_ha.lab.definition import domain_xml
from ovirt_he_ha.lab.drills.drill import Drill
from ovirt_he_ha.lab.drills.report import Course, Limit
from ovirt_he_ha.lab.drills.stage import GUEST_LIMIT, NotWhole, Stage
from ovirt_he_ha.lab.layout import ENGINE_NAME, LabHost

KILLED = 137  # no answer before the limit


class TwoBrokers(Drill):
    name = "two-brokers"
    about = "a second broker is started on the engine's host"
    limit = Limit(10.0, "wall")

    def run(self, stage: Stage) -> Course:
        host, copy = stage.engine_host(), stage.engine()
        first = control.call(host.control, "status")["broker"]["pid"]
        argv = services.daemon(host, "ovirt_he_ha.broker.service", "net_raw")
        fault_at = time.monotonic()
        second = cluster.inside(host, argv, limit=20, capture_output=True, text=True)
        ended = time.monotonic()
        alive = stage.wait(lambda: stage.board.changed_since(host.host_id, ended), stage.wall(60) + 2)
        same = control.call(host.control, "status")["broker"]["pid"] == first
        problem = "" if second.returncode not in (0, KILLED) else "the second broker was not refused"
        problem = problem or ("" if alive and same else "the first broker was disturbed")
        problem = problem or ("" if stage.untouched(copy) else "the VM was touched")
        return Course(
            fault_at=fault_at,
            ended_at=ended,
            recovered=not problem,
            problem=problem,
            more={"exit": second.returncode, "said": second.stderr.strip().splitlines()[-1:]},
        )


class HandStart(Drill):
    """Through libvirt with the VM's own definition; with one without the disk, where the lease alone stands in the way
    (QEMU's lock on the image is asked first otherwise); and through our command."""

    name = "hand-start"
    about = "somebody starts the VM by hand on another host"
    limit = Limit(60.0, "wall")

    def run(self, stage: Stage) -> Course:
        other, copy, owner = stage.other_host(), stage.engine(), stage.world.owner
        files = self._definitions(other)
        fault_at = time.monotonic()
        tried = {
            "definition": self._try(other, ["virsh", "create", files["engine"]]),
            "lease_alone": self._try(other, ["virsh", "create", files["diskless"]]),
            "hosted_engine": self._try(other, ["hosted-engine", "--vm-start"]),
        }
        ended = time.monotonic()
        stage.wait(lambda: False, 2.0)
        problem = "" if all(one["exit"] not in (0, KILLED) for one in tried.values()) else "it was not refused"
        unnamed = [way for way in ("lease_alone", "hosted_engine") if "lease" not in tried[way]["said"].lower()]
        problem = problem or (f"the lease is not named by {', '.join(unnamed)}" if unnamed else "")
        unchanged = stage.untouched(copy) and stage.world.owner == owner
        problem = problem or ("" if unchanged else "the VM was touched")
        return Course(fault_at=fault_at, ended_at=ended, recovered=not problem, problem=problem, more={"tried": tried})

    def _definitions(self, host: LabHost) -> Dict[str, str]:
        text = domain_xml(host.lab)
        diskless = _without(text, "disk")
        for name, content in (("engine", text), ("diskless", diskless)):
            (host.run / f"{name}.xml").write_text(content)
        return {"engine": "/run/engine.xml", "diskless": "/run/diskless.xml"}

    def _try(self, host: LabHost, words: List[str]) -> Dict[str, Any]:
        begun = time.monotonic()
        done = cluster.inside(host, words, limit=60, capture_output=True, text=True)
        said = " ".join((done.stdout + done.stderr).split())
        return {"exit": done.returncode, "said": said[-300:], "seconds": round(time.monotonic() - begun, 2)}

    def restore(self, stage: Stage) -> None:
        for copy in list(stage.world.running)[1:]:
            cluster.inside(stage.lab.host(copy.host), ["virsh", "destroy", ENGINE_NAME], capture_output=True)


class HandStartNoLease(Drill):
    """Nothing can refuse a VM that asks for no lease: it must be found and killed, also in maintenance. Timed from its
    process to its end."""

    name = "hand-start-no-lease"
    about = "in global maintenance somebody starts the stopped VM from a definition without the lease"
    limit = Limit(10.0, "wall")

    def run(self, stage: Stage) -> Course:
        here, other = stage.engine_host(), stage.other_host()
        begun = time.monotonic()
        self._command(other, "--set-maintenance", "--mode=global")
        self._command(here, "--vm-poweroff")
        if stage.wait(lambda: not stage.world.running, GUEST_LIMIT) is None:
            raise NotWhole("the VM was not stopped in global maintenance", time.monotonic() - begun)
        path = other.run / "leaseless.xml"
        path.write_text(_without(domain_xml(stage.lab), "lease"))
        made = cluster.inside(
            other, ["virsh", "create", "/run/leaseless.xml"], limit=60, capture_output=True, text=True
        )
        seen = stage.wait(lambda: stage.world.running, 5)
        copy = next(iter(stage.world.running), None) or stage.witness.latest()
        appeared = None if copy is None else stage.witness.appeared(copy)
        fault_at = appeared if appeared is not None and appeared >= begun else time.monotonic()
        ended = stage.wait(lambda: not stage.world.running, 30)
        record = stage.board.record(other.host_id)
        problem = (
            "" if made.returncode == 0 or seen else f"it could not be started at all: {made.stderr.strip()[-200:]}"
        )
        problem = problem or ("" if ended else "the VM without the lease runs on")
        return Course(
            fault_at=fault_at,
            ended_at=ended or time.monotonic(),
            recovered=not problem,
            judged_from=begun,
            leaseless=self.limit.seconds,
            problem=problem,
            more={"host": other.host_id, "state": "" if record is None else record.get("state")},
        )

    def _command(self, host: LabHost, *words: str) -> None:
        done = cluster.inside(host, ["hosted-engine", *words], limit=60, capture_output=True, text=True)
        if done.returncode:
            raise NotWhole(f"hosted-engine {' '.join(words)} on {host.name}: {done.stderr.strip()[-200:]}", 0)

    def restore(self, stage: Stage) -> None:
        for copy in list(stage.world.running):
            cluster.inside(stage.lab.host(copy.host), ["virsh", "destroy", ENGINE_NAME], capture_output=True)
        self._command(stage.lab.host(stage.powered()[0]), "--set-maintenance", "--mode=none")


def _without(text: str, element: str) -> str:
    return text[: text.index(f"<{element}")] + text[text.index(f"</{element}>") + len(f"</{element}>") :]


DRILLS = (TwoBrokers(), HandStart(), HandStartNoLease())
