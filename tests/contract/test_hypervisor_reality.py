"""The simulator's libvirt against real libvirtd, qemu and sanlock: every case of hypervisor_cases.py runs in both, and
both must show the same.

Some at once, each with two hosts of its own. What a cut network does to a migration shows the lab's drill
``migration-cut``; here nothing can be cut in the middle at a moment of our choice.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from ovirt_he_ha.hypervisor import engine_vm
from tests.contract import hypervisor_model, hypervisor_real
from tests.contract.hypervisor_cases import CASES
from tests.contract.libvirt_host import missing_component
from tests.contract.reality import differences

pytestmark = [
    pytest.mark.contract,
    pytest.mark.skipif(bool(missing_component()), reason=f"missing on this machine: {missing_component()}"),
]

AT_ONCE = 4
CREATE_FLOOR = 2.0  # instead of 15 s: a caller that gives up is one of the cases


def in_model(name):
    return CASES[name](hypervisor_model.Pair())


def in_reality(name):
    pair = hypervisor_real.Pair()
    try:
        return CASES[name](pair)
    finally:
        pair.close()


@pytest.fixture(scope="module")
def real(request):
    usual, engine_vm.CREATE_FLOOR = engine_vm.CREATE_FLOOR, CREATE_FLOOR
    pool = ThreadPoolExecutor(AT_ONCE)
    chosen = [item.callspec.params["name"] for item in request.session.items if item.module is request.module]
    runs = {name: pool.submit(in_reality, name) for name in chosen}
    try:
        yield runs
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        engine_vm.CREATE_FLOOR = usual


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_model_does_as_libvirt(real, name):
    assert list(differences(in_model(name), real[name].result(100))) == []
