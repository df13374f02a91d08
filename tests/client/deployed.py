"""A deployed host in a directory, and a broker on fakes behind the real socket code."""

import uuid

from ovirt_he_ha.broker.rpc import Fault, RpcServer
from ovirt_he_ha.client.ha_client import HAClient
from ovirt_he_ha.client.link import FaultCode
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import EngineStatus, Health, Record, Vm
from ovirt_he_ha.core.slot import encode

_VOLUMES = ("metadata_image", "metadata_volume", "lockspace_image", "lockspace_volume", "conf_image", "conf_volume")
_KEYS = ("vmid", "sdUUID", "vm_disk_id", "vm_disk_vol_id", *(f"{name}_UUID" for name in _VOLUMES))
UUIDS = {name: str(uuid.UUID(int=number)) for number, name in enumerate(_KEYS, 1)}


def record(host_id, **more):
    return encode(
        Record(
            host_id=host_id,
            timestamp=100,
            score=3400,
            engine=EngineStatus(Vm.UP, Health.GOOD, "Up"),
            hostname=f"host{host_id}",
            extra=(("state", "EngineUp"),),
            **more,
        ),
        0.0,
    )


class FakeBroker:
    def __init__(self):
        self.slots = {}
        self.alive = []
        self.resets = 0
        self.calls = []
        self.answers = {}  # method -> what it answers instead

    def __call__(self, caller, method, args):
        self.calls.append(method)
        if method in self.answers:
            answer = self.answers[method]
            return answer() if callable(answer) else answer
        if method == "get_stats":
            return {str(host_id): data for host_id, data in self.slots.items()}
        if method == "is_host_alive":
            return self.alive
        if method == "put_stats":
            if args[0] != 0:
                raise Fault(FaultCode.NOT_OWNER, "no")
            self.slots[0] = args[1]
        if method == "reset_lockspace":
            self.resets += 1
        return "ok"


class Host:
    def __init__(self, root):
        self.paths = HostPaths(root)
        for directory in (self.paths.hosted_engine_conf.parent, self.paths.state_dir, self.paths.run_dir):
            directory.mkdir(parents=True)
        self.storage = root / "storage"
        lines = [f"{key}={value}" for key, value in UUIDS.items()]
        lines += ["fqdn=engine.example", "host_id=1", "domainType=local", f"storage={self.storage}", "bridge=br0"]
        lines += ["gateway=192.0.2.1"]
        self.paths.hosted_engine_conf.write_text("\n".join(lines) + "\n")
        self.broker = FakeBroker()
        self.client = HAClient(log=True, paths=self.paths)

    def volume(self, kind, size):
        image = self.storage / UUIDS["sdUUID"] / "images" / UUIDS[f"{kind}_image_UUID"]
        image.mkdir(parents=True)
        path = image / UUIDS[f"{kind}_volume_UUID"]
        path.write_bytes(bytes(size))
        return path

    def serve(self):
        server = RpcServer(self.paths.broker_socket, self.broker, lambda caller: True)
        server.reserve()
        server.start()
        return server
