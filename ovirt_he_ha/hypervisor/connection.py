"""libvirt calls with a deadline each, on a worker thread of their own.

A libvirt call can block for minutes: create waits for a dead owner of the VM's lease (160 s at sanlock's default) and
freezes other calls meanwhile; a call into a stopped qemu waits for ever. A call that is overdue is abandoned together
with its thread and its connection, and the next call gets fresh ones. At most one is abandoned at a time: were the
next one to hang as well, callers are told so by their own deadlines, and no third thread is made.

Deadlines are product seconds; on the lab's faster clock none is shorter than 2 wall seconds, because libvirt is not
faster there.
"""

import importlib
import logging
import queue
import threading
import time
from typing import Any, Callable, Generic, List, Optional, TypeVar, cast

from ovirt_he_ha.core.seams import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")
# A connection to libvirt (``libvirt.virConnect``): the distribution's binding carries no types.
Native = Any

KEEPALIVE_INTERVAL = 5  # s; with the count below a frozen libvirtd is a closed connection after 20 s
KEEPALIVE_COUNT = 3
WALL_FLOOR = 2.0  # s; a local libvirt call takes 1-500 ms on a loaded host, however fast the lab's clock runs


class HypervisorError(Exception):
    """Base of what libvirt's side can raise here."""


class BindingMissing(HypervisorError):
    msg = "The Python module libvirt is missing: install the package python3-libvirt"

    def __str__(self) -> str:
        return self.msg


class Unreachable(HypervisorError):
    msg = "libvirt at {uri} cannot be reached: {why}. Check that libvirtd runs and that this user may use its socket"

    def __init__(self, uri: str, why: str) -> None:
        super().__init__(uri, why)
        self.uri = uri
        self.why = why

    def __str__(self) -> str:
        return self.msg.format(uri=self.uri, why=self.why)


class Overdue(HypervisorError):
    msg = "libvirt did not answer '{what}' within {seconds:.1f} s; the call was abandoned and its result is not known"

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(what, seconds)
        self.what = what
        self.seconds = seconds

    def __str__(self) -> str:
        return self.msg.format(what=self.what, seconds=self.seconds)


class LibvirtFault(HypervisorError):
    """libvirt answered with an error. ``code`` is VIR_ERR_*, ``domain`` the part of libvirt (VIR_FROM_*). Never
    classify by ``text``."""

    msg = "libvirt refused '{what}': {text} (code {code})"

    def __init__(self, what: str, code: int, domain: int, text: str) -> None:
        super().__init__(what, code, domain, text)
        self.what = what
        self.code = code
        self.domain = domain
        self.text = text

    def __str__(self) -> str:
        return self.msg.format(what=self.what, text=self.text, code=self.code)


def binding() -> Any:
    """The libvirt module. Raises BindingMissing."""
    try:
        module = importlib.import_module("libvirt")
    except ImportError as e:
        raise BindingMissing() from e
    # Without a handler libvirt prints every error to stderr, also those that are answers ("no such domain").
    module.registerErrorHandler(_ignore, None)
    return module


def _ignore(*_: object) -> None:
    """libvirt's error handler: the exception says it all."""


def wall_seconds(clock: Clock, seconds: float, floor: float = WALL_FLOOR) -> float:
    """Product seconds as a wait for libvirt: on the lab's faster clock never below ``floor``, because libvirt is not
    faster there."""
    return max(min(floor, seconds), seconds / clock.scale)


class EventLoop:
    """libvirt's event loop, once per process: keepalive and events of all connections need it. Callbacks run on its
    thread and must not block."""

    _registered = False
    _guard = threading.Lock()
    _thread: "Optional[threading.Thread]" = None
    _stopping = threading.Event()

    @classmethod
    def start(cls) -> None:
        """Idempotent. Must have been called before the first connection is opened. Raises BindingMissing."""
        with cls._guard:
            libvirt = binding()
            if not cls._registered:
                libvirt.virEventRegisterDefaultImpl()
                cls._registered = True
            if cls._thread is None or not cls._thread.is_alive():
                cls._stopping.clear()
                cls._thread = threading.Thread(target=cls._run, args=(libvirt,), name="libvirt-events", daemon=True)
                cls._thread.start()

    @classmethod
    def stop(cls, seconds: float) -> bool:
        """End the thread. Returns False if it did not end in time."""
        with cls._guard:
            thread = cls._thread
            if thread is None or not thread.is_alive():
                return True
            cls._stopping.set()
            timer = binding().virEventAddTimeout(0, _ignore, None)  # wakes the loop out of poll
            thread.join(seconds)
            binding().virEventRemoveTimeout(timer)
            return not thread.is_alive()

    @classmethod
    def _run(cls, libvirt: Any) -> None:
        while not cls._stopping.is_set():
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError as e:
                log.warning("libvirt's event loop: %s", e)
                cls._stopping.wait(0.1)  # an error that persists must not burn a CPU


class _Call(Generic[T]):
    def __init__(self, what: str, function: Callable[[Native], T]) -> None:
        self.what = what
        self.function = function
        self.done = threading.Event()
        self.cancelled = False
        self.begun = False
        self.result: Optional[T] = None
        self.error: Optional[Exception] = None


Opener = Callable[[str], Native]


class _Worker:
    """One thread, one libvirt connection, one call at a time."""

    def __init__(self, owner: "Connection", number: int) -> None:
        self._owner = owner
        self._calls: queue.SimpleQueue[Optional[_Call[Any]]] = queue.SimpleQueue()
        self._native: Native = None
        self.current: Optional[_Call[Any]] = None
        self.thread = threading.Thread(target=self._run, name=f"libvirt-{number}", daemon=True)
        self.thread.start()

    @property
    def stuck(self) -> bool:
        current = self.current
        return current is not None and current.cancelled

    def submit(self, call: "_Call[Any]") -> None:
        self._calls.put(call)

    def finish(self) -> None:
        """End after the call that runs, and close the connection."""
        self._calls.put(None)

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                break
            if call.cancelled:
                continue
            self.current = call
            try:
                call.result = self._perform(call)
            except Exception as e:  # handed to the caller, who raises it
                call.error = e
            self.current = None
            call.done.set()
        self._drop()

    def _perform(self, call: "_Call[Any]") -> Any:
        libvirt = self._owner.libvirt
        native = self._connected(libvirt)
        call.begun = True
        try:
            return call.function(native)
        except libvirt.libvirtError as e:
            if not _alive(libvirt, native):
                self._drop()
                raise Unreachable(self._owner.uri, str(e)) from e
            raise LibvirtFault(call.what, e.get_error_code() or 0, e.get_error_domain() or 0, str(e)) from e

    def _connected(self, libvirt: Any) -> Native:
        if self._native is not None and not _alive(libvirt, self._native):
            self._drop()
        if self._native is None:
            try:
                self._native = self._owner.open_native()
            except libvirt.libvirtError as e:
                raise Unreachable(self._owner.uri, str(e)) from e
        return self._native

    def _drop(self) -> None:
        native, self._native = self._native, None
        if native is None:
            return
        try:
            native.close()
        except self._owner.libvirt.libvirtError as e:
            log.debug("Closing a libvirt connection: %s", e)


def _alive(libvirt: Any, native: Native) -> bool:
    """Local knowledge, no round trip."""
    try:
        return bool(native.isAlive())
    except libvirt.libvirtError:
        return False


class Connection:
    """libvirt at ``uri``. Opened by the first call, opened again after libvirtd was restarted.

    ``on_open(native, number)`` runs on the worker after each opening (subscriptions go there; ``number`` grows by one
    each time, so that what an abandoned connection still delivers can be told apart); ``on_close(number)`` runs on
    the event loop's thread when libvirt reports the connection closed.
    """

    def __init__(
        self,
        uri: str,
        clock: Clock,
        on_open: Optional[Callable[[Native, int], None]] = None,
        on_close: Optional[Callable[[int], None]] = None,
        opener: Optional[Opener] = None,
    ) -> None:
        self.uri = uri
        self.clock = clock
        self.libvirt = binding()
        # Before the first opening: without the loop there is no keepalive, and a frozen libvirtd stays unseen.
        EventLoop.start()
        self._on_open = on_open
        self._on_close = on_close
        self._opener: Opener = opener if opener is not None else self.libvirt.open
        self._lock = threading.Lock()
        self._worker: Optional[_Worker] = None
        self._abandoned: Optional[_Worker] = None
        self._workers = 0
        self._openings = 0
        self._closed = False

    @property
    def abandoned(self) -> bool:
        """An overdue call hangs to this moment."""
        with self._lock:
            return self._hangs(self._abandoned) or (self._worker is not None and self._worker.stuck)

    def call(self, what: str, function: Callable[[Native], T], seconds: float) -> T:
        """Run ``function(native)`` on the worker. ``what`` names it in errors.

        Raises Unreachable (no connection), LibvirtFault (libvirt said no), Overdue after ``seconds``: the call may
        still take effect later. What ``function`` raises otherwise is raised here.
        """
        wall = wall_seconds(self.clock, seconds)
        call: _Call[T] = _Call(what, function)
        with self._lock:
            if self._closed:
                raise Unreachable(self.uri, "the connection was closed by this program")
            self._usable_worker().submit(call)
        if not call.done.wait(wall):
            with self._lock:
                if not call.done.is_set():
                    call.cancelled = True
                    raise Overdue(what, wall)
        if call.error is not None:
            raise call.error
        return cast(T, call.result)

    def close(self, seconds: float) -> bool:
        """No further calls; close what is open. Returns False if a call still hangs after ``seconds`` of wall time
        (its thread is a daemon)."""
        with self._lock:
            self._closed = True
            workers = [w for w in (self._worker, self._abandoned) if w is not None]
            if self._worker is not None:
                self._worker.finish()
        end = time.monotonic() + seconds
        for worker in workers:
            worker.thread.join(max(0.0, end - time.monotonic()))
        return not any(worker.thread.is_alive() for worker in workers)

    def threads(self) -> List[threading.Thread]:
        """Its living threads: at most two, the second one only while an abandoned call hangs."""
        with self._lock:
            workers = [w for w in (self._worker, self._abandoned) if w is not None]
        return [worker.thread for worker in workers if worker.thread.is_alive()]

    def open_native(self) -> Native:
        """For the worker: a new libvirt connection with keepalive and subscriptions. Raises libvirtError."""
        native = self._opener(self.uri)
        with self._lock:
            self._openings += 1
            number = self._openings
        self._keep_alive(native)
        if self._on_close is not None:
            native.registerCloseCallback(self._report_close, number)
        if self._on_open is not None:
            self._on_open(native, number)
        return native

    def _keep_alive(self, native: Native) -> None:
        try:
            native.setKeepAlive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
        except self.libvirt.libvirtError as e:
            log.debug("No keepalive at %s: %s", self.uri, e)  # drivers inside this process have none, and need none

    def _report_close(self, native: Native, reason: int, number: int) -> None:
        if self._on_close is not None:
            self._on_close(number)

    def _usable_worker(self) -> _Worker:
        worker = self._worker
        if worker is not None and worker.stuck and not self._hangs(self._abandoned):
            worker.finish()
            self._abandoned, worker = worker, None
        if worker is None or not worker.thread.is_alive():
            self._workers += 1
            worker = _Worker(self, self._workers)
        self._worker = worker
        return worker

    @staticmethod
    def _hangs(worker: Optional[_Worker]) -> bool:
        return worker is not None and worker.thread.is_alive()
