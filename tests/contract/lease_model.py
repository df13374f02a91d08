"""The lease cases' hosts as the simulator's: its sanlock and its binding, with plain processes as holders."""

from random import Random

from ovirt_he_ha.core.model import LeaseId, LeaseOwner
from ovirt_he_ha.sim.clock import SECOND, Scope, Timeline, ns
from ovirt_he_ha.sim.lockspaces import SanlockBinding, status_of
from ovirt_he_ha.sim.sanlock import LeaseDisk, Sanlock, SanlockCode
from ovirt_he_ha.sim.volume import FOREVER, Path
from tests.contract.lease_real import FLAGS, KEY, SPACE, summary

OUTCOMES = {"": 0, "busy": -243, "error": -1}


class Answer:
    def __init__(self, timeline):
        self.timeline = timeline
        self.begun = timeline.now
        self.code = None
        self.took = None

    def end(self, code):
        self.code = code
        self.took = (self.timeline.now - self.begun) / SECOND

    @property
    def done(self):
        return self.code is not None


class Holder:
    """A process; no qemu, and no libvirt."""

    def __init__(self, host, pid):
        self.host = host
        self.pid = pid
        self.lease = (0, 0)
        self.alive = True
        self.deaf = self.asked = False
        self.touched = False

    def signal(self, kill):
        self.asked = True
        if kill or not self.deaf:
            self.host.cluster.timeline.after(0.02, self.end)

    def end(self):
        if not self.alive:
            return
        if self.touched and self.host.path.lease_hang_until > self.host.cluster.timeline.now:
            self.host.cluster.timeline.after(0.5, self.end)
            return
        self.alive = False
        if self.host.daemon is not None:
            self.host.daemon.ended(self.pid)


class Host:
    """Also the machine of its daemon; there is no watchdog, as there is none in the other half."""

    lease_space = SPACE

    def __init__(self, cluster, number, name):
        self.cluster = cluster
        self.number = number
        self.name = name
        self.path = Path(Random(number))
        self.daemon = None
        self.holders = {}
        self.binding = SanlockBinding(lambda: self.daemon, cluster.timeline)

    # --- the machine --------------------------------------------------------------------------------------------------

    def arm_watchdog(self, space): ...

    def disarm_watchdog(self): ...

    def lockspace_joined(self, space): ...

    def trace(self, what): ...

    # --- the daemon ---------------------------------------------------------------------------------------------------

    def start(self):
        timeline = self.cluster.timeline
        self.daemon = Sanlock(
            timeline, Scope(), self.cluster.disk, self.path, self.name, Random(self.number), False, self
        )  # fmt: skip

    def kill(self):
        daemon, self.daemon = self.daemon, None
        daemon.killed()

    def stop(self):
        self.daemon.hung_until = FOREVER

    def go_on(self):
        self.daemon.hung_until = self.cluster.timeline.now

    # --- lockspace ----------------------------------------------------------------------------------------------------

    def join(self, host_id=0):
        answer = Answer(self.cluster.timeline)
        self.daemon.join(
            SPACE, host_id or self.number, "ids", lambda refusal: answer.end(refusal.args[0] if refusal else 0)
        )  # fmt: skip
        return answer

    def leave(self, unused=False, host_id=0):
        answer = Answer(self.cluster.timeline)
        answer.end(
            self._code(lambda: self.binding.rem_lockspace(SPACE.encode(), host_id or self.number, "ids", unused=unused))
        )
        return answer

    def _code(self, call):
        try:
            call()
        except SanlockCode as error:
            return error.args[0]
        return 0

    def flags(self):
        try:
            return {each["host_id"]: FLAGS[each["flags"]] for each in self.binding.get_hosts(SPACE.encode())}
        except SanlockCode:
            return {}

    def asked_for(self, host_id):
        try:
            found = self.binding.get_hosts(SPACE.encode(), host_id)
        except SanlockCode as error:
            return error.args[0]
        return [(FLAGS[each["flags"]], each["generation"]) for each in found]

    def hosts_code(self):
        return self._code(lambda: self.binding.get_hosts(SPACE.encode()))

    def spaces(self):
        return [(each["host_id"], each["flags"]) for each in self.binding.get_lockspaces()]

    def status(self):
        return summary(status_of(lambda: self.daemon, self.cluster.timeline, LeaseId(SPACE, KEY, "", 0))())

    # --- the VM's lease -----------------------------------------------------------------------------------------------

    def holder(self, who="vm"):
        self.cluster.pids += 1
        made = self.holders[who] = Holder(self, self.cluster.pids)
        self.daemon.register(made)
        return made

    def take(self, who="vm"):
        answer = Answer(self.cluster.timeline)
        holder = self.holders.get(who) or self.holder(who)
        self.daemon.acquire(holder, lambda outcome: answer.end(OUTCOMES[outcome]))
        return answer

    def give_back(self, who="vm"):
        answer = Answer(self.cluster.timeline)
        self.daemon.release(self.holders[who].pid)
        answer.end(0)
        return answer

    def crash(self, who="vm"):
        self.holders[who].signal(kill=True)

    def deafen(self, who="vm"):
        self.holders[who].deaf = True

    def hear(self, who="vm"):
        holder = self.holders[who]
        holder.deaf = False
        if holder.asked:
            holder.signal(kill=False)

    def touch_storage(self, who="vm"):
        self.holders[who].touched = True

    def alive(self, who="vm"):
        return self.holders[who].alive

    # --- storage ------------------------------------------------------------------------------------------------------

    def own_way(self): ...

    def storage(self, mode):
        self.path.lease_error = mode == "error"
        self.path.lease_hang_until = FOREVER if mode == "hang" else 0


class Cluster:
    real = False
    step = 0.1

    def __init__(self):
        self.timeline = Timeline()
        self.disk = LeaseDisk()
        self.hosts = {}
        self.pids = 100

    def host(self, number, name=""):
        host = self.hosts[number] = Host(self, number, name or f"host{number}")
        host.start()
        return host

    @property
    def now(self):
        return self.timeline.now / SECOND

    def go(self, seconds):
        self.timeline.run(self.timeline.now + ns(seconds))

    def until(self, condition, limit=400.0):
        begun = self.now
        while not condition():
            assert self.now - begun < limit, f"not within {limit} s"
            self.go(self.step)
        return self.now - begun

    def renewal(self, host_id):
        lease = self.disk.space(SPACE).get(host_id)
        return (0, 0) if lease is None else (lease.generation, lease.renewed)

    def owner(self):
        owner = self.disk.owner
        return owner if owner.host_id else LeaseOwner(0, version=owner.version)

    def close(self): ...
