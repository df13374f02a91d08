"""The process: what it refuses to start with, and what it tells systemd."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import pytest

from ovirt_he_ha.broker import service
from ovirt_he_ha.broker.service import EXIT_NOT_CONFIGURED, tell_systemd
from ovirt_he_ha.config.files import load_agent_conf, load_hosted_engine_conf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.lease.formatting import FormatFailed
from ovirt_he_ha.storage.errors import StorageError, StorageOverdue

ROOT = Path(__file__).resolve().parents[2]
_VOLUMES = ("metadata_image", "metadata_volume", "lockspace_image", "lockspace_volume", "conf_image", "conf_volume")
_KEYS = ("vmid", "sdUUID", "vm_disk_id", "vm_disk_vol_id", *(f"{name}_UUID" for name in _VOLUMES))
GOOD = {
    **{name: str(uuid.UUID(int=number)) for number, name in enumerate(_KEYS, 1)},
    "fqdn": "engine.example",
    "host_id": "1",
    "domainType": "local",
    "storage": "/nowhere",
    "bridge": "br0",
    "gateway": "192.0.2.1",
}


def write_conf(root, **changes):
    paths = HostPaths(root)
    for directory in (paths.hosted_engine_conf.parent, paths.config_dir, paths.state_dir, paths.run_dir):
        directory.mkdir(parents=True, exist_ok=True)
    values = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    paths.hosted_engine_conf.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return paths


@pytest.mark.parametrize("fqdn", ["2001:db8::7", "[2001:db8::7]"])
def test_an_engine_whose_name_is_an_ipv6_address_has_a_health_page(tmp_path, fqdn):
    paths = write_conf(tmp_path, fqdn=fqdn)
    conf = load_hosted_engine_conf(paths.hosted_engine_conf)
    options = service.monitor_options(conf, load_agent_conf(paths.agent_conf))
    assert options.health_url == "http://[2001:db8::7]/ovirt-engine/services/health"


def run(root, *arguments, **environment):
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "OVIRT_HE_ROOT": str(root), **environment}
    return subprocess.run(
        [sys.executable, "-m", "ovirt_he_ha.broker.service", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def tree(root):
    return sorted(str(path) for path in root.rglob("*"))


class Files:
    def text(self, _path):
        return b"BLOCK_SIZE=4096\n"


def test_s4_a_lockspace_that_sanlock_does_not_write_in_time_is_overdue(tmp_path, monkeypatch):
    conf = load_hosted_engine_conf(write_conf(tmp_path).hosted_engine_conf)
    goes_on, asked = threading.Event(), []

    def write(*arguments):
        asked.append(arguments)
        assert goes_on.wait(10)

    monkeypatch.setattr(service, "write_lockspace", write)
    writer = service.LockspaceWriter(conf, "/lockspace", Files, 0.1)
    began = time.monotonic()
    with pytest.raises(StorageOverdue):
        writer()
    assert time.monotonic() - began < 5
    goes_on.set()
    writer()
    assert asked == [("hosted-engine", "/lockspace", 4096)] * 2

    def refuse(*_arguments):
        raise FormatFailed("lockspace", "/lockspace", -5, "I/O error")

    monkeypatch.setattr(service, "write_lockspace", refuse)
    with pytest.raises(StorageError) as caught:
        writer()
    assert caught.value.code == "io"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"host_id": None}, "host_id"),
        ({"host_id": "0"}, "host_id"),
        ({"metadata_volume_UUID": ""}, "metadata_volume_UUID"),
        ({"lockspace_image_UUID": "None"}, "lockspace_image_UUID"),
        ({"spUUID": str(uuid.UUID(int=99))}, "spUUID"),
        ({"domainType": "tape"}, "domainType"),
        ({"network_test": "tcp"}, "tcp_t_address"),
        ({"gateway": None}, "gateway"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path, changes, named):
    paths = write_conf(tmp_path, **changes)
    before = tree(tmp_path)
    done = run(tmp_path)
    assert done.returncode == EXIT_NOT_CONFIGURED
    assert done.stderr.count("\n") == 1
    assert str(paths.hosted_engine_conf) in done.stderr
    assert named in done.stderr
    assert tree(tmp_path) == before


@pytest.mark.system_python
def test_a_block_domain_that_root_has_not_connected(tmp_path):
    paths = write_conf(tmp_path, domainType="iscsi")
    done = run(tmp_path)
    assert done.returncode == EXIT_NOT_CONFIGURED and done.stderr.count("\n") == 1
    assert "not-connected" in done.stderr and "ovirt-ha-storage" in done.stderr
    assert not paths.storage_record.exists()


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"nonsense"])
def test_a_file_that_is_none(tmp_path, content):
    paths = write_conf(tmp_path)
    paths.hosted_engine_conf.unlink()
    if content is not None:
        paths.hosted_engine_conf.write_bytes(content)
    done = run(tmp_path)
    assert done.returncode == EXIT_NOT_CONFIGURED
    assert done.stderr.count("\n") == 1
    assert str(paths.hosted_engine_conf) in done.stderr


def test_a_broker_conf_that_does_not_fit(tmp_path):
    paths = write_conf(tmp_path)
    paths.broker_conf.write_text("[email]\nsmtp-port=many\n")
    done = run(tmp_path)
    assert done.returncode == EXIT_NOT_CONFIGURED
    assert str(paths.broker_conf) in done.stderr
    assert "smtp-port" in done.stderr


def test_a_time_scale_that_does_not_fit(tmp_path):
    write_conf(tmp_path)
    done = run(tmp_path, HE_TIME_SCALE="fast")
    assert done.returncode == EXIT_NOT_CONFIGURED
    assert "HE_TIME_SCALE" in done.stderr


@pytest.mark.system_python
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("libvirt", "sanlock")),
    reason="a binding is missing: libvirt or sanlock",
)
def test_no_place_for_the_socket(tmp_path):
    paths = write_conf(tmp_path)
    paths.run_dir.rmdir()
    done = run(tmp_path)
    assert done.returncode == 1
    assert str(paths.run_dir) in done.stderr


@pytest.mark.system_python
@pytest.mark.skipif(importlib.util.find_spec("sanlock") is None, reason="python3-sanlock is missing")
def test_s8_a_stop_is_heard_whichever_thread_takes_the_signal():
    with tempfile.TemporaryDirectory(prefix="he-b-", dir="/tmp") as directory:  # a socket's name is short
        paths = write_conf(Path(directory))
        env = {**os.environ, "OVIRT_HE_ROOT": directory, "PYTHONPATH": str(ROOT)}
        broker = subprocess.Popen(
            [sys.executable, "-m", "ovirt_he_ha.broker.service"], env=env, stderr=subprocess.DEVNULL
        )
        try:
            until = time.monotonic() + 60
            with socket.socket(socket.AF_UNIX) as probe:
                while probe.connect_ex(str(paths.broker_socket)):
                    assert time.monotonic() < until and broker.poll() is None
                    time.sleep(0.02)  # another process's socket raises no event here
            others = {int(thread) for thread in os.listdir(f"/proc/{broker.pid}/task")} - {broker.pid}
            os.kill(min(others), signal.SIGTERM)
            assert broker.wait(60) in (service.EXIT_OK, service.EXIT_HANGING)
        finally:
            broker.kill()
            broker.wait(10)


def test_version(tmp_path):
    assert run(tmp_path, "--version").stdout.startswith("ovirt-ha-broker ")


@pytest.mark.parametrize("abstract", [False, True])
def test_readiness(tmp_path, monkeypatch, abstract):
    name = f"he-test-{uuid.uuid4()}"
    address = f"\0{name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else address)
        tell_systemd("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_nobody_to_tell(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    tell_systemd("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    tell_systemd("READY=1")
