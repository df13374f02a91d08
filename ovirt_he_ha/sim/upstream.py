"""A host that runs oVirt's own daemons, as a member of a simulated cluster.

Written from how they behave, flaws included (upstream_states.py, upstream_broker.py, upstream_vdsm.py name them). What
it needs of the world is :class:`~ovirt_he_ha.sim.upstream_door.Door`.
"""

from typing import Iterator, Optional

from ovirt_he_ha.sim.upstream_agent import Agent, Files
from ovirt_he_ha.sim.upstream_broker import UP, Broker, BrokerGone
from ovirt_he_ha.sim.upstream_door import Door, Thread
from ovirt_he_ha.sim.upstream_score import Weights
from ovirt_he_ha.sim.upstream_slots import GLOBAL, write_flags
from ovirt_he_ha.sim.upstream_vdsm import Vdsm

RESTART = 10.0  # seconds; the agent's unit restarts always


class UpstreamHost:
    """From boot to power-off. ``collection``: seconds that reading all values takes in each cycle."""

    def __init__(
        self,
        door: Door,
        weights: Optional[Weights] = None,
        collection: float = 0.1,
        files: Optional[Files] = None,
    ) -> None:
        self._door = door
        self._weights = weights or Weights()
        self._collection = collection
        self.files = files or Files()
        self.vdsm = Vdsm(door)
        self.broker = Broker(door, self.vdsm)
        self.vdsm.on_change = self.broker.vm_changed
        self.agent: Optional[Agent] = None
        self.agent_starts = 0
        self._unit: Optional[Thread] = None

    @property
    def state(self) -> str:
        """The agent's state; empty while it does not run."""
        return self.agent.machine.state if self.agent is not None else ""

    # --- systemd ----------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.broker.start()
        self.start_agent()

    def start_agent(self) -> None:
        if self._unit is None or self._unit.over:
            self._unit = Thread(self._door, self._agent_unit()).start()

    def stop_agent(self) -> None:
        """Orderly: the last record is published, the VM is left alone. In local maintenance before the loop it is not
        heard at all."""
        if self.agent is not None:
            self.agent.stopping = True

    def power_off(self) -> None:
        if self._unit is not None:
            self._unit.stop()
        self.agent = None
        self.broker.kill()

    def kill_agent(self, again: bool = True) -> None:
        """kill -9: no last record; systemd starts it again."""
        if self._unit is not None:
            self._unit.stop()
        self.agent = None
        self._unit = Thread(self._door, self._later()).start() if again else None

    def kill_broker(self, again: bool = True) -> None:
        """kill -9 is a failure: systemd starts it again at once, and the agent dies at its next call."""
        self.broker.kill()
        if again:
            self.broker.start()

    def _later(self) -> Iterator[float]:
        yield RESTART
        yield from self._agent_unit()

    def _agent_unit(self) -> Iterator[float]:
        while True:
            self.broker.start()  # the unit wants it
            self.agent_starts += 1
            agent = Agent(self._door, self.broker, self.vdsm, self.files, self._weights, self._collection)
            self.agent = agent
            yield from agent.life()
            self.agent = None
            if agent.stopping:
                return
            yield RESTART

    # --- the operator -----------------------------------------------------------------------------------------------

    def set_local_maintenance(self, on: bool) -> bool:
        """``hosted-engine --set-maintenance --mode=local`` or ``none``: refused while the VM is here, and each clears
        the global flag as well."""
        if on and self.vdsm.has_vm:
            return False
        self.files.set_local_maintenance(on)
        self.set_global_maintenance(False)
        return True

    def set_global_maintenance(self, on: bool) -> bool:
        """The command's answer: whether it believes that it worked. The flag may be lost all the same."""
        if self.broker.state != UP:
            return False
        try:
            self.broker.put_stats(GLOBAL, write_flags(on))
        except BrokerGone:
            return False
        return True
