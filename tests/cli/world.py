"""A host in a directory: its configuration files, and a broker that serves chosen facts over the real socket code."""

import json
import shutil
import socket
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import pytest

from ovirt_he_ha.broker import protocol
from ovirt_he_ha.broker.protocol import BrokerSnapshot, FaultCode, StorageFacts, pack_snapshot
from ovirt_he_ha.broker.rpc import Caller, Fault, RpcServer
from ovirt_he_ha.cli.main import main
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import (
    EngineFacts,
    EngineStatus,
    Health,
    HostLease,
    LeaseFacts,
    LeaseOwner,
    LockspaceState,
    Monitors,
    Reading,
    Record,
    Vm,
)
from ovirt_he_ha.storage import io_process
from ovirt_he_ha.storage.local import LocalDomain

# The real I/O process, which never comes back from one kind of request.
_HANGING = """
import importlib.util, signal, sys
spec = importlib.util.spec_from_file_location("io_process_itself", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
def hung(path, operation, *rest):
    while True:
        signal.pause()
module._perform = hung
sys.exit(module.main())
"""
VMID = "5a1de5b1-21b5-4c65-9a5e-000000000001"
UP = EngineStatus(Vm.UP, Health.GOOD, "Up")
DOWN = EngineStatus(Vm.DOWN, Health.BAD, "unknown", "not here")


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Dict[str, Any]:
        return dict(json.loads(self.out))


def run(*words: str) -> Ran:
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(list(words))
    return Ran(status, out.getvalue(), err.getvalue())


def record(host_id: int, **changes: Any) -> Record:
    values: Dict[str, Any] = {
        "host_id": host_id,
        "timestamp": 1000 + host_id,
        "score": 3400,
        "engine": DOWN,
        "hostname": f"host{host_id}",
        "local_conf_timestamp": 990,
        "extra": (("state", "EngineDown"),),
    }
    return Record(**{**values, **changes})


class World:
    """One host, id 1, deployed. ``facts`` is what its broker says; what is written to the broker lands in ``slots``."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="he", dir="/tmp"))  # short: a socket's path has at most 107 bytes
        self.paths = HostPaths(self.root)
        self.storage = self.root / "domain"
        self.slots: Dict[int, bytes] = {0: slot.encode_global(False)}
        self.alive: List[int] = [1, 2, 3]
        self.slot_ages: Dict[int, float] = {}
        self.facts = BrokerSnapshot(
            host_id=1,
            slots_age=1.0,
            storage=StorageFacts("ok", 1.0),
            monitors=Monitors(engine=Reading.of(EngineFacts(DOWN))),
            leases=LeaseFacts(
                lockspace=Reading.of(LockspaceState.HELD),
                whiteboard=Reading.of(LockspaceState.HELD),
                hosts=Reading.of({1: HostLease.LIVE, 2: HostLease.LIVE, 3: HostLease.LIVE}),
                owner=Reading.of(LeaseOwner(0)),
                own_generation=4,
                watchdog_armed=True,
                renewed_ago=5.0,
            ),
            version="test",
        )
        self.written: List[Tuple[int, bytes]] = []
        self.resets = 0
        self.refuse: Dict[str, Fault] = {}
        self.lies: Dict[str, Any] = {}  # method -> what it answers instead
        self.on_write: Callable[[int], None] = lambda host_id: None
        self.on_wait: Callable[[], None] = lambda: None
        self.calls: List[str] = []
        self._server: Optional[RpcServer] = None
        self._deaf: Optional[socket.socket] = None
        self._deploy()

    def _deploy(self) -> None:
        for directory in (self.paths.hosted_engine_conf.parent, self.paths.state_dir, self.paths.run_dir):
            directory.mkdir(parents=True)
        self.configure()
        self.paths.vm_conf.write_text(f"vmId={VMID}\nmemSize=256\n")

    def configure(self, **changes: str) -> None:
        """Write hosted-engine.conf; an empty value leaves the key out."""
        values = {
            "fqdn": "engine.test",
            "vmid": VMID,
            "host_id": "1",
            "domainType": "local",
            "storage": str(self.storage),
            "gateway": "127.0.0.1",
            "bridge": "ovirtmgmt",
            "spUUID": "00000000-0000-0000-0000-000000000000",
        }
        names = ("vm_disk_id", "vm_disk_vol_id", "sdUUID", "metadata_image_UUID", "metadata_volume_UUID")
        names += ("lockspace_image_UUID", "lockspace_volume_UUID", "conf_image_UUID", "conf_volume_UUID")
        for number, name in enumerate(names, 1):
            values[name] = f"00000000-0000-4000-8000-{number:012d}"
        values.update(changes)
        text = "".join(f"{key}={value}\n" for key, value in values.items() if value)
        self.paths.hosted_engine_conf.write_text(text)

    def publish(self, *records: Record) -> None:
        for each in records:
            self.slots[each.host_id] = slot.encode(each, 1_700_000_000.0)

    def engine(self, status: EngineStatus, **changes: Any) -> None:
        monitors = replace(self.facts.monitors, engine=Reading.of(EngineFacts(status, **changes)))
        self.facts = replace(self.facts, monitors=monitors)

    def leases(self, **changes: Any) -> None:
        self.facts = replace(self.facts, leases=replace(self.facts.leases, **changes))

    def start_broker(self) -> None:
        self._server = RpcServer(self.paths.broker_socket, self._dispatch, lambda caller: True)
        self._server.reserve()
        self._server.start()

    def hang_broker(self) -> None:
        """It listens and takes connections, and nobody ever answers."""
        self._deaf = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._deaf.bind(str(self.paths.broker_socket))
        self._deaf.listen(5)

    def make_volume(self) -> Path:
        """The metadata volume with what ``slots`` holds, without the broker."""
        conf = load_hosted_engine_conf(self.paths.hosted_engine_conf)
        domain = LocalDomain(conf.storage, conf.sd_uuid)
        path = Path(domain.volume_path(conf.metadata_image_uuid, conf.metadata_volume_uuid))
        path.parent.mkdir(parents=True, exist_ok=True)
        data = b"".join(self.slots.get(host_id, bytes(4096)) for host_id in range(2001))
        path.unlink(missing_ok=True)  # it may be a link to what others use
        path.write_bytes(data)
        return path

    def hang_storage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        program = self.root / "hanging_io.py"
        program.write_text(_HANGING.format(path=io_process.__file__))
        monkeypatch.setattr(io_process, "__file__", str(program))

    def close(self) -> None:
        if self._deaf is not None:
            self._deaf.close()
        if self._server is not None:
            self._server.close_door()
            self._server.stop(2.0)
        shutil.rmtree(self.root)

    def _dispatch(self, caller: Caller, method: str, args: Tuple[Any, ...]) -> Any:
        self.calls.append(method)
        if method in self.lies:
            return self.lies[method]
        if method in self.refuse:
            raise self.refuse[method]
        if method == protocol.SNAPSHOT:
            return pack_snapshot(replace(self.facts, slots=dict(self.slots)))
        if method == protocol.HEALTH:
            return {"slot_ages": {str(host_id): age for host_id, age in self.slot_ages.items()}}
        if method == protocol.IS_HOST_ALIVE:
            return list(self.alive)
        if method == protocol.WAIT_FOR_CHANGE:
            self.on_wait()
            return int(args[0]) + 1
        if method == protocol.RESET_LOCKSPACE:
            self.resets += 1
            return "ok"
        if method == protocol.PUT_STATS:
            host_id, data = args
            self.written.append((host_id, data))
            self.slots[host_id] = data
            self.on_write(host_id)
            return "ok"
        raise Fault(FaultCode.REQUEST, f"{method}: not served here")
