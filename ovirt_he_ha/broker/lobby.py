"""New connections until they say something: one thread waits for all of them, so that a thousand that only connect cost
a descriptor each and no thread, and the next one is not kept behind them."""

import logging
import select
import socket
import threading
import time
from typing import Callable, Dict, Optional

from ovirt_he_ha.broker.connections import Connection
from ovirt_he_ha.config.journal import throttled

log = logging.getLogger(__name__)

_AT_ONCE = 64  # connections accepted before those that speak are looked at
_SWEEP = 5.0  # wall seconds between two looks for those that never said anything


class Lobby:
    """``admit`` makes a connection of an accepted socket, or None. ``serve`` takes one that has begun to speak, and
    returns at once. ``leave`` ends one."""

    def __init__(
        self,
        admit: Callable[[socket.socket], Optional[Connection]],
        serve: Callable[[Connection], None],
        leave: Callable[[Connection], None],
        idle_seconds: float,
        stopping: threading.Event,
    ) -> None:
        self._admit = admit
        self._serve = serve
        self._leave = leave
        self._idle_seconds = idle_seconds
        self._stopping = stopping
        self._waiting: Dict[int, Connection] = {}
        self._poller = select.epoll()
        self._interval = min(_SWEEP, idle_seconds / 2)
        self._swept = 0.0

    def run(self, listener: socket.socket) -> None:
        """Until told to stop and ``listener`` is shut; those that wait are ended then."""
        door = listener.fileno()
        listener.setblocking(False)
        try:
            self._poller.register(door, select.EPOLLIN)
            while not self._stopping.is_set():
                try:
                    self._turn(listener, door)
                except Exception:
                    # No memory for one more, or a defect. Without this thread the broker would live on and be deaf.
                    log.exception("a connection was not admitted", extra=throttled("defect"))
                    time.sleep(0.1)
        finally:
            self._poller.close()
            for connection in self._waiting.values():
                self._leave(connection)

    def _turn(self, listener: socket.socket, door: int) -> None:
        for number, _ in self._poller.poll(self._interval if self._waiting else None):
            if number == door:
                self._accept(listener)
            else:
                self._heard(number)
        self._sweep()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                peer, _address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if not self._stopping.is_set():
                    # Out of descriptors or memory: those in use are freed by limits and deadlines within seconds.
                    log.error("no new connection accepted: %s", error, extra=throttled("accept"))
                    time.sleep(0.1)
                return
            peer.setblocking(True)
            connection = self._admit(peer)
            if connection is None:
                continue
            try:
                self._poller.register(peer.fileno(), select.EPOLLIN)
            except OSError:  # no memory for it: nobody would hear it
                self._leave(connection)
                raise
            self._waiting[peer.fileno()] = connection

    def _heard(self, number: int) -> None:
        connection = self._waiting.pop(number)
        self._poller.unregister(number)
        try:
            said = connection.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            said = b""
        if said:
            self._serve(connection)
        else:
            self._leave(connection)  # it went away, or had to

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept < self._interval:
            return
        self._swept = now
        for connection in list(self._waiting.values()):
            if now - connection.quiet_since > self._idle_seconds:
                connection.shut()  # is heard in the next round
