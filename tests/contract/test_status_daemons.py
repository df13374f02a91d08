"""The status against a real broker and a real sanlock, while each of them stands still."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from ovirt_he_ha.core.model import EngineStatus, Health, Record, Vm
from ovirt_he_ha.core.slot import encode
from tests.contract.test_broker_daemon import ROOT, SPEED, bare, machine, needs_faketime, needs_sanlock
from tests.own_time import OwnTime

__all__ = ["bare", "machine"]  # fixtures

pytestmark = [pytest.mark.contract, needs_sanlock, needs_faketime]
LONGEST = 3.0 + 1.5  # wall seconds: the command's own limit, and the start of an interpreter on a busy machine


def publish(machine, host_id, score=3400):
    engine = EngineStatus(Vm.DOWN, Health.BAD, "Down")
    now = int(time.monotonic() * SPEED)
    data = encode(Record(host_id=host_id, timestamp=now, score=score, engine=engine, hostname=f"host{host_id}"), 0.0)
    with machine.metadata.open("r+b", buffering=0) as volume:
        volume.seek(host_id * 4096)
        volume.write(data)
        os.fdatasync(volume.fileno())
    return data


def status(machine, *words):
    took = OwnTime()
    done = subprocess.run(
        [sys.executable, "-m", "ovirt_he_ha.cli.main", "--vm-status", *words],
        cwd=ROOT,
        env=machine.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert took.seconds < LONGEST
    assert done.stderr == "" and "Traceback" not in done.stdout
    return done


def asked(machine):
    done = status(machine, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0, answer
    return answer["1"], answer["2"]


@pytest.fixture
def running(machine):
    machine.paths.vm_conf.write_text("vmId=x\n")
    publish(machine, 2)
    broker = machine.start_broker()
    machine.await_held()
    machine.await_snapshot("storage read", lambda found: 2 in found.slots)
    machine.link.put_stats(1, publish(machine, 1))
    machine.link.push_hosts_state([1, 2])
    yield machine
    for process in (broker, machine.sanlock):
        process.send_signal(signal.SIGCONT)


def test_each_path_in_turn(running):
    broker = running.brokers[0]
    own, peer = asked(running)
    assert own["live-data"] and peer["live-data"]
    assert own["sanlock"] == "live" and own["sources"]["sanlock"]["from"] == "broker"

    broker.send_signal(signal.SIGSTOP)
    publish(running, 1)  # by its agent, a moment ago
    own, peer = asked(running)
    assert own["live-data"] and not peer["live-data"]
    assert peer["sources"]["slot"]["from"] == "volume" and peer["sources"]["slot"]["age"] < LONGEST
    assert own["sanlock"] == "live" and own["sources"]["sanlock"]["from"] == "sanlock"
    assert [problem["code"] for problem in own["problems"]] == ["broker-overdue", "read-directly"]
    assert "Read from the volume" in status(running).stdout

    running.sanlock.send_signal(signal.SIGSTOP)
    own, peer = asked(running)
    assert own["sanlock"] == peer["sanlock"] == "unknown" and peer["score"] == 3400

    running.sanlock.send_signal(signal.SIGCONT)
    broker.kill()
    broker.wait(10)
    own, peer = asked(running)
    assert own["problems"][0]["code"] == "broker-refused" and own["sanlock"] == "live"


def test_a_stream_follows_the_volume_and_the_broker(running):
    """Peers write past this host's broker; it says so without being asked for."""
    command = [sys.executable, "-m", "ovirt_he_ha.cli.main", "--vm-status", "--stream"]
    # What a shell starts in the background ignores SIGINT, and so does all that it starts.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=ROOT, env=running.env, stdout=subprocess.PIPE, preexec_fn=heard) as stream:
        try:
            lines = map(json.loads, iter(stream.stdout.readline, b""))
            assert next(lines)["2"]["score"] == 3400
            publish(running, 2, 1234)
            assert any(line["2"]["score"] == 1234 for line in lines)
            running.brokers[0].kill()
            assert any(line["2"]["sources"]["slot"]["from"] == "volume" for line in lines)
            running.brokers[0].wait(10)
            running.start_broker()
            assert any(line["2"]["sources"]["slot"]["from"] == "broker" for line in lines)
            stream.send_signal(signal.SIGINT)
            assert stream.wait(10) == 0
        finally:
            stream.kill()
