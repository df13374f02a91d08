"""oVirt's own broker: one pending write for all slots, a view that forgets nothing, and an end of its own for every
error of the storage.

It ends itself with exit status 0 after 30 s without a socket, so that nobody starts it again before the agent dies of
it, too.
"""

from typing import Dict, Generator, Iterator, List, Mapping, Optional, Tuple

from ovirt_he_ha.sim.upstream_door import (
    WHITEBOARD,
    CallHangs,
    Door,
    Measures,
    SanlockFault,
    StorageFault,
    Thread,
)
from ovirt_he_ha.sim.upstream_slots import BrokerDies, read_area
from ovirt_he_ha.sim.upstream_vdsm import EngineHealth, Vdsm

START_UP = 2.0  # seconds, unconditional
END = 30.0  # from the loss of the socket to the hard exit
ROUND = 10.0  # seconds between two reads, and of every monitor
LOAD_PERIOD = 60.0
LOCK_TRIES = 5
LOCK_PAUSE = 5.0
HANG_LOOK = 1.0  # how often a call that hangs is asked again

EEXIST = 17
EINVAL = 22

STOPPED = "stopped"
STARTING = "starting"
UP = "up"
ENDING = "ending"


class BrokerGone(Exception):
    """Nobody listens on the socket."""


class Broker:
    def __init__(self, door: Door, vdsm: Vdsm) -> None:
        self._door = door
        self._vdsm = vdsm
        self.state = STOPPED
        self.deaths = 0
        self._life: Optional[Thread] = None
        self._forget()

    def _forget(self) -> None:
        self._pending: Optional[Tuple[int, bytes]] = None
        self._raw: Optional[Mapping[int, str]] = None
        self._current: Dict[int, str] = {}
        self._locked: Optional[int] = None
        self._monitors: Optional[Thread] = None
        self.health = EngineHealth(self._door, self._vdsm)
        self.measures: Optional[Measures] = None
        self.load: Optional[float] = None

    # --- the unit ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """By systemd: no effect while the process is there, even one that is ending."""
        if self.state == STOPPED:
            self._life = Thread(self._door, self._lives()).start()

    def kill(self) -> None:
        """The machine's end, or somebody's kill -9: systemd starts it again only in the second case."""
        for thread in (self._life, self._monitors):
            if thread is not None:
                thread.stop()
        self.state = STOPPED

    def _lives(self) -> Iterator[float]:
        while True:
            self._forget()
            self.state = STARTING
            yield START_UP
            try:
                yield from self._storage()
            except (BrokerDies, StorageFault, SanlockFault) as fault:
                self._door.trace(f"upstream broker ends: {fault}")
            self.deaths += 1
            if self._monitors is not None:
                self._monitors.stop()
                self.state = ENDING
                yield END
                self.state = STOPPED
                return
            self.state = STARTING  # an exit status that is not 0: systemd starts it again
            yield 0.1

    def _storage(self) -> Iterator[float]:
        self.state = UP
        while True:
            if self._pending is not None:
                yield from self._write(*self._pending)
            while True:
                try:
                    self._raw = read_area(self._door.read_area())
                    break
                except CallHangs:
                    yield HANG_LOOK
            if self._pending is None:
                yield ROUND

    def _write(self, slot: int, data: bytes) -> Iterator[float]:
        self._pending = None
        if self._locked is None:
            raise BrokerDies(f"slot {slot} posted while no host id was ever locked")
        while True:
            try:
                # Without the id its own slot is not written, and nobody told.
                if slot == 0 or self._door.held(WHITEBOARD):
                    self._door.write_slot(slot, data)
                return
            except CallHangs:
                yield HANG_LOOK

    # --- calls ------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        if self.state != UP:
            raise BrokerGone("no socket")

    def get_stats(self) -> Dict[int, str]:
        """What was read, laid over what was ever read: a slot that was blanked stays. Raises BrokerGone."""
        self._serve()
        if self._raw is not None:
            self._current.update(self._raw)
            self._raw = None
        return self._current

    def put_stats(self, slot: int, data: bytes) -> None:
        """Served at once, written later, unless another post comes first: of whatever slot. Raises BrokerGone."""
        self._serve()
        self._current[slot] = data.decode("utf-8")
        self._pending = (slot, data)
        if self._life is not None:
            self._life.wake()

    def start_monitors(self) -> None:
        self._serve()
        if self._monitors is None:
            self._monitors = Thread(self._door, self._measure()).start()

    def vm_changed(self) -> None:
        """An event of vdsm."""
        if self.state == UP and self._monitors is not None:
            Thread(self._door, self.health.look()).start()

    def _measure(self) -> Iterator[float]:
        reported: Optional[float] = None
        while True:
            Thread(self._door, self.health.look()).start()
            now = self._door.monotonic()
            if self.measures is not None and (reported is None or now - reported >= LOAD_PERIOD):
                reported = now
                self.load = self._door.measures().load
            self.measures = self._door.measures()
            yield ROUND

    def lock_host_id(self, host_id: int) -> Iterator[float]:
        """Blocks the caller. Success and failure look the same to it."""
        self._serve()
        for left in reversed(range(LOCK_TRIES)):
            try:
                held = yield from self._held()
                if held:
                    self._locked = host_id
                    return
                code = yield from self._join()
            except SanlockFault as fault:
                code = fault.code
            if code in (0, EEXIST):
                self._locked = host_id
                return
            if code == EINVAL:
                break
            if left:
                yield LOCK_PAUSE
        self._locked = None

    def _held(self) -> Generator[float, None, Optional[bool]]:
        while True:
            try:
                return self._door.held(WHITEBOARD)
            except CallHangs:
                yield HANG_LOOK

    def _join(self) -> Generator[float, None, int]:
        answers: List[int] = []
        self._door.join(WHITEBOARD, answers.append)
        while not answers:
            yield 1.0
        return answers[0]

    def release_host_id(self) -> None:
        self._serve()
        if self._locked is not None:
            self._locked = None
            try:
                self._door.leave(WHITEBOARD)
            except SanlockFault as fault:
                self._door.trace(f"upstream broker: release failed: {fault}")
