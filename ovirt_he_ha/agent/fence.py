"""The kill path: the engine's process on this host dies, and is seen to be gone.

It needs neither libvirt nor the broker nor storage: it looks for the process in /proc, signals it through a pidfd and
waits for its end. It runs on its own thread, so that nothing else in the agent can delay it, and the agent's cycle
never waits for it.
"""

import logging
import threading
from typing import Callable, Dict, Optional

from ovirt_he_ha.core.model import Fence
from ovirt_he_ha.core.seams import Clock

log = logging.getLogger(__name__)

# The process can be uninterruptible (state D, a hung disk). Then nothing here helps: the state is published,
# sanlock's watchdog resets the host 60 s after the lease expired. It does not for a copy that was paused before, whose
# lease libvirt gave back: for that one the guard asks for a reset.
STUCK = "stuck"
KILLING = "killing"

Kill = Callable[[Fence, float], bool]


class Fencer:
    """One kill at a time. ``kill(fence, wall_seconds)`` returns True once the process is gone (every engine process,
    for a fence without a pid), False if it is still there at the deadline; orders given meanwhile are part of the one
    that runs. There are two who order, the agent's cycle and the guard: each takes back its own order only."""

    def __init__(self, kill: Kill, clock: Clock, on_done: Callable[[], None]) -> None:
        self._kill = kill
        self._clock = clock
        self._on_done = on_done
        self._lock = threading.Lock()
        self._wanted: Dict[str, str] = {}  # who -> reason
        self._running = False
        self._state = ""
        self._reason = ""

    @property
    def state(self) -> str:
        """Empty (nothing to kill), ``killing``, or ``stuck`` (the process survived the last try)."""
        with self._lock:
            return self._state

    @property
    def reason(self) -> str:
        with self._lock:
            return self._reason

    def order(self, fence: Optional[Fence], who: str = "cycle") -> None:
        """Start killing. None: ``who`` has nothing (left) to kill."""
        with self._lock:
            if fence is None:
                self._wanted.pop(who, None)
            else:
                self._wanted[who] = fence.reason
            if self._running:
                return
            if fence is None:
                if not self._wanted:
                    self._state = self._reason = ""
                return
            self._running = True
            self._state = STUCK if self._state == STUCK else KILLING
            self._reason = fence.reason
        log.warning(
            "Killing the engine VM's process on this host: %s",
            fence.reason,
            extra={"HE_REASON": fence.reason},
        )
        self.launch(fence)

    def launch(self, fence: Fence) -> None:
        """On a thread of its own: the process may take its time to die."""
        try:
            threading.Thread(target=self._run, args=(fence,), name="fence", daemon=True).start()
        except RuntimeError:  # no memory or no process left for a thread: the caller's has to do
            log.error("No thread for the kill: killing on the caller's")
            self._run(fence)

    def _run(self, fence: Fence) -> None:
        gone = False
        try:
            gone = self._kill(fence, max(fence.deadline / self._clock.scale, 0.5))
        except Exception:  # whatever fails here must be seen as "still there", and tried again by the next cycle
            log.exception("The kill path failed; it is tried again")
        self.finish(gone)

    def finish(self, gone: bool) -> None:
        """The kill has ended: ``gone`` if no process is left."""
        with self._lock:
            self._running = False
            self._state = "" if gone else STUCK
        if not gone:
            log.error("The engine VM's process on this host cannot be killed; only a reset of the host ends it")
        self._on_done()
