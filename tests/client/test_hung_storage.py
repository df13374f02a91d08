"""Storage that does not answer: the caller's thread does, with the I/O process left to hang alone."""

import os
import threading

import pytest

from ovirt_he_ha.client import bounded_volume, ha_client, shared_config
from ovirt_he_ha.storage import io_process
from ovirt_he_ha.storage.archive import ArchiveError, build_archive, read_archive
from ovirt_he_ha.storage.errors import StorageOverdue
from tests.own_time import OwnTime

MEMBERS = {
    "version": b"0.1.0",
    "fhanswers.conf": b"",
    "hosted-engine.conf": b"fqdn=engine.example\nconsole=vnc\n",
    "broker.conf": b"[email]\nsmtp-port=25\n",
    "vm.conf": b"vmId=x\n",
}

# The real program, which never comes back from one kind of request.
PROGRAM = """
import importlib.util, signal, sys
spec = importlib.util.spec_from_file_location("io_process_itself", {path!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
perform = module._perform
def hung(path, operation, *rest):
    while operation in {operations!r}:
        signal.pause()
    return perform(path, operation, *rest)
module._perform = hung
sys.exit(module.main())
"""


@pytest.fixture
def hang(tmp_path, monkeypatch):
    monkeypatch.setattr(ha_client, "CONFIG_DEADLINE", 0.5)
    monkeypatch.setattr(ha_client, "DIRECT_DEADLINE", 0.5)
    monkeypatch.setattr(shared_config, "SETTLE", 0.001)
    real = io_process.__file__

    def at(*operations):
        program = tmp_path / "hung_io_process.py"
        program.write_text(PROGRAM.format(path=real, operations=operations))
        monkeypatch.setattr(io_process, "__file__", str(program))

    return at


@pytest.fixture
def archived(host):
    host.archive = host.volume("conf", 1 << 20)
    with host.archive.open("r+b") as file:
        file.write(build_archive(MEMBERS))
    return host


def children():
    """Of this process, zombies left out."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as file:
            found |= set(file.read().split())
    return found


READING = [
    lambda client: client.get_shared_config("console"),
    lambda client: client.get_shared_config("fqdn", "he_shared"),
    lambda client: client.set_shared_config("fqdn", "other.example", "he_shared"),
    lambda client: client.set_shared_config("email.smtp-port", "26", "broker"),
    lambda client: client.get_all_config_keys(),
]


@pytest.mark.parametrize("call", READING, ids=range(len(READING)))
def test_configuration(archived, hang, call):
    before, processes = archived.archive.read_bytes(), children()
    hang(io_process.READ)
    took = OwnTime()
    with pytest.raises(ArchiveError) as caught:
        call(archived.client)
    assert caught.value.code == "overdue"
    assert took.seconds < 2
    assert archived.archive.read_bytes() == before
    assert children() <= processes


@pytest.mark.parametrize("call", READING[2:4], ids=["he_shared", "broker"])
def test_a_write_that_is_given_up_is_not_called_undone(archived, hang, call, monkeypatch):
    hang(io_process.WRITE)
    monkeypatch.setattr(ha_client, "CONFIG_DEADLINE", 3.0)  # the reads before it have time for a process
    with pytest.raises(ArchiveError) as caught:
        call(archived.client)
    assert caught.value.code == "late-write"
    assert read_archive(archived.archive) == MEMBERS
    assert not archived.paths.broker_conf.exists()


def test_statistics_past_the_broker(host, hang):
    host.volume("metadata", 1 << 20)
    hang(io_process.READ)
    with pytest.raises(StorageOverdue):
        host.client.get_all_host_stats_direct()


def test_connecting(host, hang):
    host.volume("metadata", 4096)
    hang(io_process.DIRECTORY)
    with pytest.raises(RuntimeError):
        host.client.connect_storage_server(timeout=0.3)


def test_what_needs_no_storage_goes_on(archived, hang):
    hang(io_process.READ, io_process.WRITE, io_process.DIRECTORY)
    assert archived.client.get_shared_config("gateway", "he_local") == ["192.0.2.1", "he_local"]
    archived.client.set_shared_config("local_maintenance", "True", "ha")
    assert archived.client.get_local_host_id() == 1


def test_no_process_stays_after_a_call(archived):
    before = children()
    assert archived.client.get_shared_config("console") == ["vnc", "he_shared"]
    assert children() <= before


def test_one_worker_for_all_callers(archived):
    """It counts the processes that hang, and adds no third."""
    path = str(archived.archive)
    first, second = bounded_volume.BoundedVolume(path, 1), bounded_volume.BoundedVolume(path, 1)
    assert first._worker is second._worker


def test_threads_of_one_program(archived):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(archived.client.get_shared_config("console"))) for _ in "1234"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [["vnc", "he_shared"]] * 4


@pytest.mark.parametrize("broken", [b"no section\n", b"[email\n", b"=\n", b"[a]\n\xff=1\n"], ids=range(4))
def test_a_shared_file_that_is_no_configuration(archived, broken):
    data = build_archive({**MEMBERS, "broker.conf": broken})
    with archived.archive.open("r+b") as file:
        file.write(data)
    with pytest.raises((shared_config.ConfigError, KeyError)):
        archived.client.set_shared_config("email.smtp-port", "26", "broker")
    assert archived.archive.read_bytes()[: len(data)] == data
