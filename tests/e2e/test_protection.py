"""--protection on a whole cluster: green while all is there; 15 s after something was taken away it says so, asked on
another host than the one that lost it.

HE_TEST_TIME_SCALE=1 runs it at real speed, where those 15 s are what a user sees.
"""

import base64
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from ovirt_he_ha.lab import cluster, faults
from ovirt_he_ha.lab.layout import Lab, LabHost
from ovirt_he_ha.storage.archive import read_archive, write_archive
from tests.e2e.conftest import made

SCALE = os.environ.get("HE_TEST_TIME_SCALE", "")
SETTLED = 120.0  # product seconds until a cluster that was made, or given everything back, is whole
BUSY = 6.0  # wall: the processes of the command and the agent do not become faster with the lab's clock


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from made(*(["--time-scale", SCALE] if SCALE else []))


@dataclass(frozen=True)
class Reading:
    status: int
    answer: Dict[str, Any]

    @property
    def found(self) -> List[Tuple[str, str, Tuple[int, ...]]]:
        return [(one["code"], one["level"], tuple(one["hosts"])) for one in self.answer["findings"]]


def meter(host: LabHost) -> Reading:
    done = cluster.inside(host, ["hosted-engine", "--protection", "--json"], limit=30, capture_output=True, text=True)
    return Reading(done.returncode, json.loads(done.stdout))


def await_reading(host: LabHost, seconds: float, holds: Callable[[Reading], bool]) -> Tuple[float, Reading]:
    """Wall seconds until ``holds``."""
    begun = time.monotonic()
    while True:
        reading = meter(host)
        passed = time.monotonic() - begun
        if holds(reading):
            return passed, reading
        assert passed < seconds, reading.answer["findings"]


def limit(lab: Lab, seconds: float) -> float:
    return seconds if lab.scale == 1.0 else seconds / lab.scale + BUSY


def await_whole(lab: Lab, host: LabHost) -> Reading:
    return await_reading(host, SETTLED / lab.scale + BUSY, lambda reading: reading.status == 0)[1]


def without_lease(vm_conf: str) -> str:
    first, rest = vm_conf.split("\n", 1)
    name, _, encoded = first.partition("=")
    xml = str(base64.b64decode(encoded), "utf-8")
    assert name == "xmlBase64" and xml.count("<lease>") == 1
    cut = xml[: xml.index("<lease>")] + xml[xml.index("</lease>") + len("</lease>") :]
    return f"{name}={str(base64.b64encode(cut.encode()), 'ascii')}\n{rest}"


@contextmanager
def lease(lab: Lab, _spare: LabHost) -> Iterator[None]:
    """Out of the definition on the shared storage."""
    path = lab.volume_path(lab.identity.configuration)
    members = read_archive(path)
    write_archive(path, {**members, "vm.conf": without_lease(str(members["vm.conf"], "utf-8")).encode()})
    try:
        yield
    finally:
        write_archive(path, members)


@contextmanager
def rewritten(path: Path, old: str, new: str) -> Iterator[None]:
    """With its time: a file that is as it was is no reason to start libvirt again."""
    text, status = path.read_text(), path.stat()
    assert old in text
    path.write_text(text.replace(old, new))
    try:
        yield
    finally:
        path.write_text(text)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextmanager
def lock_manager(_lab: Lab, spare: LabHost) -> Iterator[None]:
    with rewritten(spare.directory / "etc" / "qemu.conf", 'lock_manager = "sanlock"', "# none"):
        yield


@contextmanager
def configuration(_lab: Lab, spare: LabHost) -> Iterator[None]:
    path = spare.product_root / "etc" / "ovirt-hosted-engine-ha" / "agent.conf"
    try:
        with rewritten(path, "[score]\n", "[score]\nengine-retry-score-penalty=51\n"):
            faults.kill(spare, "agent")
            yield
    finally:
        faults.kill(spare, "agent")


@contextmanager
def spare_host(_lab: Lab, spare: LabHost) -> Iterator[None]:
    def ask(mode: str) -> None:
        words = ["hosted-engine", "--set-maintenance", f"--mode={mode}"]
        cluster.inside(spare, words, limit=60, capture_output=True, check=True)

    ask("local")
    try:
        yield
    finally:
        ask("none")


def test_a_whole_cluster_is_protected_as_every_host_sees_it(lab: Lab) -> None:
    for host_id in lab.host_ids:
        answer = await_whole(lab, lab.host(host_id)).answer
        here = faults.engine_host(lab).host_id
        assert (answer["vm-host"], answer["deployed"], len(answer["spares"])) == (here, 3, 2)
        by_id = {one["host-id"]: one for one in answer["hosts"]}
        assert {one["watchdog"] for one in by_id.values()} == {True}
        assert {one["lock-manager"] for one in by_id.values()} == {"sanlock"}
        assert {one["definition"] for one in by_id.values()} == {"ok"}
        assert {one["lockspace"] for one in by_id.values()} == {"live"}
        assert (by_id[here]["audit"], by_id[here]["running-lease"]) == ("guarded", True)
        assert all(all(one["versions"].values()) for one in by_id.values())
        assert {one["second-network"] for one in by_id.values()} == {True}
        recovery = {each["fault"]: each["seconds"] for each in answer["recovery"]}
        assert (recovery["host-loss"], recovery["network-loss"], recovery["vm-crash"]) == (162.0, 60.0, 10.0)


@pytest.mark.parametrize(
    ("take", "code", "level", "status", "everywhere"),
    [
        (lease, "lease-missing", "unprotected", 4, True),
        (lock_manager, "lock-manager-off", "degraded", 3, False),
        (configuration, "score-differs", "degraded", 3, False),
        (spare_host, "host-maintenance", "degraded", 3, False),
    ],
)
def test_what_is_taken_away_shows_within_15_s(
    lab: Lab, take: Any, code: str, level: str, status: int, everywhere: bool, record_property: Any
) -> None:
    here = faults.engine_host(lab)
    spare = next(lab.host(host_id) for host_id in lab.host_ids if host_id != here.host_id)
    await_whole(lab, here)
    about = here.host_id if everywhere else spare.host_id
    with take(lab, spare):
        seconds, reading = await_reading(
            here,
            limit(lab, 15.0),
            lambda reading: any(one[:2] == (code, level) and about in one[2] for one in reading.found),
        )
        record_property("seconds", round(seconds, 1))
        assert reading.status == status, reading.found
    await_whole(lab, here)
