"""A world just large enough for upstream's model: one volume, one lease, hosts with a libvirt of a few lines."""

from random import Random

from ovirt_he_ha.core import slot as ours
from ovirt_he_ha.sim.clock import Scope, Timeline, ns
from ovirt_he_ha.sim.upstream import UpstreamHost
from ovirt_he_ha.sim.upstream_door import WHITEBOARD, CallHangs, Measures, SanlockFault, StorageFault
from ovirt_he_ha.sim.upstream_slots import write_flags

DOMAIN = "sd-uuid"
DEAD_AFTER = 140  # seconds from a host's end to its lease being free


class Cluster:
    def __init__(self, hosts=2, seed=1, **how):
        self.timeline = Timeline()
        self.slots = {}
        self.writes = []
        self.owner = 0
        self.owner_died_at = None
        self.running = set()
        self.log = []
        self.random = Random(seed)
        self.page_good = True
        self.hosts = {n: Host(self, n, **how) for n in range(1, hosts + 1)}

    def __getitem__(self, number):
        return self.hosts[number]

    def boot(self, *numbers):
        for number in numbers or self.hosts:
            self.hosts[number].boot()
        return self

    def run(self, seconds):
        self.timeline.run(self.timeline.now + ns(seconds))
        return self

    def until(self, condition, limit=2000):
        """Run second by second until it holds; the seconds it took."""
        for gone in range(limit):
            if condition():
                return gone
            self.run(1)
        raise AssertionError(f"not within {limit} s; {self.states()}")

    def states(self):
        return {number: host.model.state for number, host in self.hosts.items()}

    def starts(self, number=None):
        return [at for at, host, what in self.log if what.endswith(": start") and number in (None, host)]

    def transitions(self, number):
        """(second, old, new) of one host."""
        found = []
        for at, host, what in self.log:
            words = what.split(": ")[-1].split("-")
            if host == number and what.startswith("upstream agent: ") and len(words) == 2 and words[1][:1].isupper():
                found.append((at, *words))
        return found

    def record(self, number):
        return ours.decode(number, self.slots.get(number, bytes(4096)))

    def set_global(self, on):
        self.slots[0] = write_flags(on)

    def lease_free_for(self, number):
        now = self.timeline.now / 1e9
        dead = self.owner_died_at is not None and now - self.owner_died_at > DEAD_AFTER
        return self.owner in (0, number) or dead


class Host:
    """Implements the door and the hypervisor of one machine."""

    def __init__(self, cluster, number, uptime=1000.0, phase=None, collection=0.1):
        self.cluster = cluster
        self.host_id = number
        self.hostname = f"host{number}"
        self.mem_needed = 4096
        self.uptime = uptime + 37.3 * number if phase is None else uptime + phase
        self.collection = collection
        self.scope = Scope()
        self.spaces = set()
        self.sanlock_up = True
        self.now_measures = Measures()
        self.storage = ""
        self.reachable = True
        self.create_fails = ""
        self.create_seconds = 1.2
        self.deaf = False
        self.stuck = False
        self.model = UpstreamHost(self, collection=collection)

    # --- the machine ------------------------------------------------------------------------------------------------

    @property
    def hypervisor(self):
        return self

    def boot(self):
        self.scope = Scope()
        self.model = UpstreamHost(self, collection=self.collection)
        self.model.boot()

    def power_off(self):
        self.model.power_off()
        self.scope.end()
        self.spaces.clear()
        if self.host_id in self.cluster.running:
            self.cluster.running.discard(self.host_id)
            self.cluster.owner_died_at = self.cluster.timeline.now / 1e9

    # --- the door ---------------------------------------------------------------------------------------------------

    def monotonic(self):
        return self.uptime + (self.cluster.timeline.now + self.cluster.timeline.lag) / 1e9

    def wall(self):
        return 1.7e9 + self.monotonic()

    def spend(self, seconds):
        self.cluster.timeline.spend(seconds)

    def after(self, seconds, action):
        self.cluster.timeline.after(seconds, action, self.scope)

    def _storage(self):
        if self.storage == "hangs":
            raise CallHangs
        if self.storage:
            raise StorageFault(self.storage)

    def read_area(self):
        self._storage()
        return dict(self.cluster.slots)

    def write_slot(self, slot, data):
        self._storage()
        self.cluster.writes.append((self.host_id, slot, data))
        self.cluster.slots[slot] = data

    def held(self, lockspace):
        if not self.sanlock_up:
            raise SanlockFault(111)
        return lockspace in self.spaces

    def join(self, lockspace, done):
        def joined():
            self.spaces.add(lockspace)
            done(0)

        self.after(21.0 if lockspace == DOMAIN else 0.5, joined)

    def leave(self, lockspace):
        self.spaces.discard(lockspace)

    def domain_lockspace(self):
        return DOMAIN

    def page(self):
        return (True, 0.05) if self.cluster.page_good else (False, 30.0)

    def measures(self):
        return self.now_measures

    def trace(self, what):
        self.cluster.log.append((round(self.cluster.timeline.now / 1e9), self.host_id, what))

    def entered(self, before, state):
        self.trace(f"upstream agent: {before}-{state}")

    def orders(self, action):
        self.trace(f"upstream agent: {action}")

    # --- libvirt ----------------------------------------------------------------------------------------------------

    def create(self, done):
        self.after(self.create_seconds, lambda: self._created(done))

    def _created(self, done):
        if self.create_fails:
            done("failed", self.create_fails)
        elif not self.cluster.lease_free_for(self.host_id):
            done("busy", "")
        else:
            assert not self.cluster.running - {self.host_id}, "two copies"
            self.cluster.owner = self.host_id
            self.cluster.owner_died_at = None
            self.cluster.running.add(self.host_id)
            done("ok", "")

    def shutdown(self):
        if not self.deaf:
            self.after(5.0, lambda: self.vm_ends("shutdown"))

    def destroy(self, done):
        if self.stuck:
            return
        self._release()
        self.after(0.5, lambda: done(True))

    def vm_ends(self, how):
        """The VM here is gone: shutdown, crashed, destroyed, migrated."""
        if self.host_id in self.cluster.running:
            self._release()
            self.model.vdsm.event("stopped", how)

    def _release(self):
        if self.host_id in self.cluster.running:
            self.cluster.running.discard(self.host_id)
            if self.cluster.owner == self.host_id:
                self.cluster.owner = 0

    def migrate_to(self, number, seconds=8.0):
        target = self.cluster[number]
        self.model.vdsm.event("migrating", "")
        target.model.vdsm.event("started", "migrated")

        def switch():
            self.cluster.running = {number}
            self.cluster.owner = number
            target.model.vdsm.event("resumed", "migrated")
            self.model.vdsm.event("stopped", "migrated")

        self.after(seconds, switch)


__all__ = ["DOMAIN", "WHITEBOARD", "Cluster"]
