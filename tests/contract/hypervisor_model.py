"""The hypervisor cases' two hosts as the simulator's: its libvirt, its watch over it, its sanlock."""

from random import Random

from ovirt_he_ha.sim.clock import SECOND, HostClock, Scope, Timeline, ns
from ovirt_he_ha.sim.hypervisor import Libvirt
from ovirt_he_ha.sim.sanlock import LeaseDisk, Sanlock, SanlockCode
from ovirt_he_ha.sim.volume import Path
from ovirt_he_ha.sim.watch import Mail, SimWatch

SPACE = "storage-domain"
SCALE = 10  # of sanlock, as in the other half


class Answer:
    def __init__(self, timeline):
        self.timeline = timeline
        self.begun = timeline.now
        self.outcome = None
        self.took = None

    def end(self, outcome, detail):
        self.outcome = outcome.value
        self.took = (self.timeline.now - self.begun) / SECOND

    @property
    def done(self):
        return self.outcome is not None


class Host:
    """Machine of sanlock and site of libvirt."""

    lease_space = SPACE

    def __init__(self, pair, number):
        self.pair = pair
        self.number = number
        self.random = Random(number)
        self.scope = Scope()
        self.path = Path(self.random)
        self.daemon = None
        self.libvirt = Libvirt(pair.timeline, self, pair.next_copy)
        self.start_sanlock()
        self.watch = SimWatch(
            self.libvirt, HostClock(pair.timeline, 0.0), pair.timeline, self.scope, lambda: False, Mail()
        )  # fmt: skip
        self.watch.start(lambda: None)

    # --- machine and site ---------------------------------------------------------------------------------------------

    def sanlock(self):
        return self.daemon

    def vm_event(self, event, detail, copy):
        self.watch.event(event, detail, copy)

    def io_hangs(self):
        return False

    def boot_seconds(self):
        return None  # no operating system

    def cpus_changed(self, copy, before): ...

    def process_appeared(self): ...

    def arm_watchdog(self, space): ...

    def disarm_watchdog(self): ...

    def lockspace_joined(self, space): ...

    def trace(self, what): ...

    # --- sanlock ------------------------------------------------------------------------------------------------------

    def start_sanlock(self):
        self.daemon = Sanlock(
            self.pair.timeline, Scope(), self.pair.disk, self.path, f"host{self.number}", self.random, False, self
        )  # fmt: skip

    def kill_sanlock(self):
        daemon, self.daemon = self.daemon, None
        daemon.killed()

    def join(self):
        done = []
        self.daemon.join(SPACE, self.number, "ids", done.append)
        self.pair.until(lambda: done, 10)
        assert done == [None]

    def leave(self):
        try:
            self.daemon.leave(SPACE, unused=False)
        except SanlockCode as error:
            raise AssertionError(error) from error
        self.pair.until(lambda: not self.daemon.spaces, 10)

    # --- the VM -------------------------------------------------------------------------------------------------------

    def start(self, deadline=30.0):
        answer = Answer(self.pair.timeline)
        self.libvirt.create(deadline, answer.end)
        return answer

    def destroy(self, deadline):
        answer = Answer(self.pair.timeline)
        self.libvirt.destroy(deadline, answer.end)
        return answer

    def shutdown(self, deadline):
        answer = Answer(self.pair.timeline)
        self.libvirt.shutdown(deadline, answer.end)
        return answer

    def migrate(self, deadline):
        answer = Answer(self.pair.timeline)
        other = self.pair.b if self is self.pair.a else self.pair.a
        self.libvirt.migrate(other.libvirt, deadline, answer.end)
        return answer

    def slow_moves(self):
        self.libvirt.flow.move_seconds = 60.0

    def suspend(self):
        assert self.libvirt.pause("user")

    def resume(self):
        self.libvirt.resume()
        self.pair.go(0.5)
        return self.state() == "running"

    def state(self):
        if self.libvirt.frozen:
            return "blocked"
        return "none" if self.libvirt.domain is None else self.libvirt.domain.cpus

    def facts(self):
        value = self.watch.facts().value
        return None if value is None else (value.status.vm.value, value.last_exit.value)

    def uptime(self):
        value = self.watch.facts().value
        return None if value is None else value.uptime

    def paused_for(self):
        value = self.watch.facts().value
        return None if value is None else value.paused_for

    def processes(self):
        return len(self.libvirt.processes())

    def cpus_ran(self):
        return [copy.ran for copy in self.libvirt.processes()]

    def image_is_open(self):
        return self.processes() > 0

    def kill_qemu(self):
        self.libvirt.kill(self.libvirt.domain, "signal")

    def stop_qemu(self):
        self.libvirt.domain.deaf = True

    def kill_libvirtd(self):
        self.libvirt.daemon_down()

    def start_libvirtd(self):
        self.libvirt.daemon_up()


class Pair:
    def __init__(self):
        self.timeline = Timeline()
        self.disk = LeaseDisk(2 / SCALE, 60 / SCALE)
        self.copies = 0
        self.a, self.b = Host(self, 1), Host(self, 2)
        for host in (self.a, self.b):
            host.join()
        self.go(2)

    def next_copy(self):
        self.copies += 1
        return self.copies

    @property
    def now(self):
        return self.timeline.now / SECOND

    def owner(self):
        return self.disk.owner.host_id

    def go(self, seconds):
        self.timeline.run(self.timeline.now + ns(seconds))

    def until(self, condition, limit):
        begun = self.timeline.now
        while not condition():
            assert self.timeline.now - begun < ns(limit), f"not within {limit} s"
            self.go(0.02)
        return (self.timeline.now - begun) / SECOND

    def close(self): ...
