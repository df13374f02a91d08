"""The simulator's sanlock against real daemons: every case of lease_cases.py runs in both, and both must show the same.

The real halves of all chosen cases run at once, beside each other, as each has its own daemons, and before everything
else that wants a processor: a second of theirs is a twentieth of one, and a daemon that stood in the queue for 0.2 s
would be 4 s late.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.contract import lease_model, lease_real, storage_view
from tests.contract.lease_cases import CASES, VIEWS
from tests.contract.reality import differences
from tests.contract.sanlock_cluster import missing

pytestmark = pytest.mark.contract

AT_ONCE = 6  # with more, one of two cores has no time for somebody's second


def in_model(name):
    return CASES[name](lease_model.Cluster())


def in_reality(name, directory, view_program):
    cluster = lease_real.Cluster(directory, view_program)
    try:
        return CASES[name](cluster)
    finally:
        cluster.close()


@contextmanager
def before_others():
    """This thread, and the threads and processes that it starts from here on, have the real-time priority that sanlock
    gives itself on a host. Where that is not permitted they are as late as the machine makes them."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


class Beside:
    """Real runs under way, longest first."""

    def __init__(self, names, directory, view_program):
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.runs = {}
        for name in sorted(names, key=lambda name: ("died" not in name and "long" not in name, name)):
            (directory / name).mkdir()
            self.runs[name] = self.pool.submit(in_reality, name, directory / name, view_program)

    def of(self, name):
        return self.runs[name].result(100)


@pytest.fixture(scope="module")
def real(request):
    if missing():
        pytest.skip(missing())
    chosen = {item.callspec.params["name"] for item in request.session.items if item.module is request.module}
    with before_others(), tempfile.TemporaryDirectory(prefix="he-lease-") as place:
        lacks = storage_view.missing_component() if chosen & VIEWS else "no case needs it"
        program = None if lacks else storage_view.build(Path(place))
        beside = Beside(chosen if program else chosen - VIEWS, Path(place), program)
        beside.lacks = lacks
        yield beside
        beside.pool.shutdown(wait=True, cancel_futures=True)


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_model_does_as_the_daemon(real, name):
    if name in VIEWS and real.lacks:
        pytest.skip(f"{real.lacks} is missing: no storage that can hang")
    assert list(differences(in_model(name), real.of(name))) == []
