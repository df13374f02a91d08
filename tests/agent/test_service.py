"""The process: what it refuses to start with, and that it ends in time whatever is missing."""

import importlib.util
import logging
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
from types import SimpleNamespace
from typing import Dict, Iterator, List, Optional

import pytest

from ovirt_he_ha.agent.cycle import Cycle
from ovirt_he_ha.agent.service import EXIT_INIT, EXIT_NOT_CONFIGURED, EXIT_OK, MIN_GAP, Agent, compose, main
from ovirt_he_ha.client.link import BrokerSnapshot
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.core.model import HostLease, LeaseFacts, LeaseOwner, Reading

ROOT = Path(__file__).resolve().parents[2]
_UUIDS = (
    "vmid",
    "sdUUID",
    "vm_disk_id",
    "vm_disk_vol_id",
    "metadata_image_UUID",
    "metadata_volume_UUID",
    "lockspace_image_UUID",
    "lockspace_volume_UUID",
    "conf_image_UUID",
    "conf_volume_UUID",
)
GOOD = {
    **{name: str(uuid.UUID(int=number)) for number, name in enumerate(_UUIDS, 1)},
    "fqdn": "engine.example",
    "host_id": "1",
    "domainType": "local",
    "storage": "/nowhere",
    "bridge": "br0",
    "gateway": "192.0.2.1",
}


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What main() installs ends with the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def write_conf(root: Path, changes: Dict[str, Optional[str]]) -> HostPaths:
    paths = HostPaths(root)
    for directory in (paths.hosted_engine_conf.parent, paths.config_dir, paths.state_dir, paths.run_dir):
        directory.mkdir(parents=True, exist_ok=True)
    values = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    paths.hosted_engine_conf.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return paths


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"host_id": None}, "host_id"),
        ({"host_id": "2001"}, "host_id"),
        ({"vmid": "the engine"}, "vmid"),
        pytest.param({"domainType": "nfs"}, "storage", marks=pytest.mark.system_python),
        ({"configured": "False"}, "configured"),
        ({"spUUID": str(uuid.UUID(int=5))}, "spUUID"),
    ],
)
def test_a_bad_configuration_is_one_line_with_file_and_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: Dict[str, Optional[str]],
    named: str,
) -> None:
    paths = write_conf(tmp_path, changes)
    monkeypatch.setenv("OVIRT_HE_ROOT", str(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    assert main([]) == EXIT_NOT_CONFIGURED
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert str(paths.hosted_engine_conf) in said[0] and named in said[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("text", ["[score]\nbase-score=many\n", "[score]\nsurprise=1\n", "base-score=1\n"])
def test_a_bad_agent_conf_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    paths = write_conf(tmp_path, {})
    paths.agent_conf.write_text(text)
    monkeypatch.setenv("OVIRT_HE_ROOT", str(tmp_path))
    assert main([]) == EXIT_NOT_CONFIGURED
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert str(paths.agent_conf) in said[0]


def test_a_wrong_time_scale_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_conf(tmp_path, {})
    monkeypatch.setenv("OVIRT_HE_ROOT", str(tmp_path))
    monkeypatch.setenv("HE_TIME_SCALE", "fast")
    assert main([]) == EXIT_NOT_CONFIGURED
    assert "HE_TIME_SCALE" in capsys.readouterr().err


@pytest.mark.system_python
@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="python3-libvirt is missing")
def test_s8_without_a_broker_it_keeps_trying_and_a_stop_takes_less_than_five_seconds(tmp_path: Path) -> None:
    agent = compose(write_conf(tmp_path, {}))
    status = []
    running = threading.Thread(target=lambda: status.append(agent.run()), daemon=True)
    running.start()
    assert agent.lost_broker.wait(10)
    begun = time.monotonic()
    agent.stop()
    running.join(10)
    assert time.monotonic() - begun < 5
    # The final record could not be written: that is no success.
    assert status == [EXIT_INIT]


class Silent:
    """A broker that accepts and never answers, as a frozen one does."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.asked = threading.Event()
        self._open: List[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self.asked.set()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self._open:
            connection.close()


@pytest.mark.system_python
@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="python3-libvirt is missing")
def test_s4_a_frozen_broker_does_not_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="he-a-", dir="/tmp") as directory:  # a socket's name is short
        paths = write_conf(Path(directory), {})
        broker = Silent(paths.broker_socket)
        agent = compose(paths)
        status: List[int] = []
        running = threading.Thread(target=lambda: status.append(agent.run()), daemon=True)
        running.start()
        assert broker.asked.wait(10)
        begun = time.monotonic()
        agent.stop()
        running.join(10)
        assert time.monotonic() - begun < 5
        assert status == [EXIT_INIT]
        broker.close()


@pytest.mark.system_python
@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="python3-libvirt is missing")
def test_s8_a_stop_is_heard_whichever_thread_takes_the_signal() -> None:
    with tempfile.TemporaryDirectory(prefix="he-a-", dir="/tmp") as directory:
        broker = Silent(write_conf(Path(directory), {}).broker_socket)
        env = {**os.environ, "OVIRT_HE_ROOT": directory, "PYTHONPATH": str(ROOT)}
        agent = subprocess.Popen(
            [sys.executable, "-m", "ovirt_he_ha.agent.service"], env=env, stderr=subprocess.DEVNULL
        )
        try:
            assert broker.asked.wait(60)
            others = {int(thread) for thread in os.listdir(f"/proc/{agent.pid}/task")} - {agent.pid}
            os.kill(min(others), signal.SIGTERM)
            assert agent.wait(60) == EXIT_INIT
        finally:
            agent.kill()
            agent.wait(10)
            broker.close()


@pytest.mark.system_python
@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="python3-libvirt is missing")
@pytest.mark.parametrize(("written", "status"), [(True, EXIT_OK), (False, EXIT_INIT)])
def test_s8_a_final_record_that_is_not_on_the_volume_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool, status: int
) -> None:
    agent = compose(write_conf(tmp_path, {}))
    monkeypatch.setattr(agent._cycle, "run_one_cycle", lambda stopping: None)
    monkeypatch.setattr(agent._publisher, "settle", lambda seconds: written)
    assert agent._say_goodbye() == status


@pytest.mark.system_python
@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="python3-libvirt is missing")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_the_loop_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = compose(write_conf(tmp_path, {}))

    def broken() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(agent, "_load_budgets", broken)
    assert agent.run() == EXIT_INIT


@pytest.mark.system_python
@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="python3-libvirt is missing")
def test_the_agent_keeps_the_hosts_own_volumes_from_the_vm(tmp_path: Path) -> None:
    agent = compose(write_conf(tmp_path, {}))
    own = (GOOD["metadata_volume_UUID"], GOOD["lockspace_volume_UUID"], GOOD["conf_volume_UUID"])
    assert agent._definition._reserved == own and len(set(own)) == 3


@pytest.mark.system_python
@pytest.mark.skipif(importlib.util.find_spec("libvirt") is None, reason="python3-libvirt is missing")
def test_s8_an_agent_that_stops_begins_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = compose(write_conf(tmp_path, {}))
    monkeypatch.setattr(Cycle, "objection_to_start", lambda *_: "")
    assert agent._objection() == ""
    agent.stop()
    assert agent._objection() == "agent-stopped"


@pytest.mark.parametrize(
    "flag, left, lives",
    [
        (None, None, None),
        (HostLease.LIVE, None, True),
        (HostLease.DEAD, None, False),
        (None, 3, False),
        (HostLease.LIVE, 3, False),
        (None, 4, None),
    ],
)
def test_d2_a_start_that_fails_beside_a_record_that_is_over_is_no_lost_race(
    flag: Optional[HostLease], left: Optional[int], lives: Optional[bool]
) -> None:
    hosts = {1: HostLease.LIVE, **({} if flag is None else {2: flag})}
    leases = LeaseFacts(
        owner=Reading.of(LeaseOwner(2, 3)), hosts=Reading.of(hosts), owner_left=left, owner_left_for=1.0
    )
    agent = SimpleNamespace(_side_link=SimpleNamespace(snapshot=lambda: BrokerSnapshot(leases=leases)))
    assert Agent._owner_live(agent, 2) is lives  # type: ignore[arg-type]


def test_a_broker_that_always_tells_of_a_change_is_not_asked_without_a_pause():
    asked = []

    def wait_for_change(serial, _timeout):
        asked.append(serial)
        return serial + 1

    agent = SimpleNamespace(
        _new_link=lambda: SimpleNamespace(wait_for_change=wait_for_change),
        _stopping=threading.Event(),
        _wake=threading.Event(),
        _timers=SimpleNamespace(cycle=10.0),
        _clock=SimpleNamespace(scale=1.0),
    )
    watcher = threading.Thread(target=Agent._watch_broker, args=(agent,), daemon=True)
    watcher.start()
    assert agent._wake.wait(10)
    threading.Event().wait(5 * MIN_GAP)
    agent._stopping.set()
    watcher.join(10)
    assert not watcher.is_alive()
    assert asked == list(range(len(asked)))  # no change is lost
    assert 2 <= len(asked) <= 20  # 6 of them; a busy machine may be slow to stop it
