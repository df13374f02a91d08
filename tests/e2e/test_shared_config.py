"""Two hosts change shared settings at the same moment, 200 times, through their own daemons: no change is lost."""

import json
import subprocess
from typing import Iterator, List

import pytest

from ovirt_he_ha.lab import cluster, services
from ovirt_he_ha.lab.layout import Lab, LabHost
from ovirt_he_ha.storage.archive import read_archive
from tests.e2e.conftest import made

ROUNDS = 200
# What the command line does for --set-shared-config; one process for all of them, so that two really meet.
PROGRAM = """
import json, sys
from ovirt_he_ha.client.shared_config import SharedConfig
from ovirt_he_ha.config.paths import HostPaths
config = SharedConfig(HostPaths.from_env())
print("ready", flush=True)
for line in sys.stdin:
    key, value, kind = json.loads(line)
    try:
        config.set(key, value, kind)
        print("done", flush=True)
    except Exception as error:
        print(getattr(error, "code", type(error).__name__), error, flush=True)
"""


class Setter:
    """A process on one host."""

    def __init__(self, host: LabHost) -> None:
        self.process = subprocess.Popen(
            cluster.nsenter(host, [services.python(host), "-c", PROGRAM]),
            env=services.environment(host),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.answer() == "ready"

    def tell(self, *request: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from made("--hosts", "2")


@pytest.fixture
def setters(lab: Lab) -> Iterator[List[Setter]]:
    found = [Setter(lab.host(host_id)) for host_id in lab.host_ids]
    yield found
    for each in found:
        each.close()


def value(lab: Lab, member: str, key: str) -> str:
    lines = str(read_archive(lab.volume_path(lab.identity.configuration))[member], "utf-8").splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith(f"{key}="))


def test_no_change_is_lost(lab: Lab, setters: List[Setter]) -> None:
    one, two = setters
    before = read_archive(lab.volume_path(lab.identity.configuration))
    for number in range(1, ROUNDS + 1):
        # The same member for both in every other round.
        key, kind = ("tcp_t_port", "he_shared") if number % 2 else ("email.smtp-server", "broker")
        one.tell("tcp_t_address", f"192.0.2.{number % 250}", "he_shared")
        two.tell(key, str(number), kind)
        assert [one.answer(), two.answer()] == ["done", "done"], number
        member = "hosted-engine.conf" if kind == "he_shared" else "broker.conf"
        assert value(lab, "hosted-engine.conf", "tcp_t_address") == f"192.0.2.{number % 250}"
        assert value(lab, member, key.rpartition(".")[2]) == str(number)
    after = read_archive(lab.volume_path(lab.identity.configuration))
    assert {name: after[name] for name in ("version", "fhanswers.conf", "vm.conf")} == {
        name: before[name] for name in ("version", "fhanswers.conf", "vm.conf")
    }
    assert value(lab, "hosted-engine.conf", "tcp_t_port") == str(ROUNDS - 1)


def test_the_change_before_comes_back_by_command_on_either_host(lab: Lab) -> None:
    words = ["hosted-engine", "--set-shared-config", "console", "qxl", "--type=he_shared"]
    cluster.inside(lab.host(1), words, limit=60, capture_output=True, text=True, check=True)
    assert value(lab, "hosted-engine.conf", "console") == "qxl"
    restored = cluster.inside(
        lab.host(2), ["hosted-engine", "--restore-shared-config", "--json"], limit=60, capture_output=True, text=True
    )
    assert json.loads(restored.stdout) == {"restored": ["hosted-engine.conf"]}
    assert value(lab, "hosted-engine.conf", "console") == "vnc"


def test_the_domain_is_whole(lab: Lab) -> None:
    for host_id in lab.host_ids:
        done = cluster.inside(
            lab.host(host_id), ["hosted-engine", "--check-storage", "--json"], limit=60, capture_output=True, text=True
        )
        found = json.loads(done.stdout)
        assert (done.returncode, found["whole"]) == (0, True), found
