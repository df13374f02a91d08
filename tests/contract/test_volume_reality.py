"""The simulator's volume against real direct I/O: every case of volume_cases.py runs in both, and both must show the
same."""

import subprocess

import pytest

from tests.contract import storage_view
from tests.contract.reality import differences
from tests.contract.test_directio import loop_device
from tests.contract.volume_cases import CASES, PLAIN
from tests.contract.volume_places import SIZE, Model, Real

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def view_program(tmp_path_factory):
    if storage_view.missing_component():
        pytest.skip(f"{storage_view.missing_component()} is missing: no storage that can hang")
    return storage_view.build(tmp_path_factory.mktemp("view"))


def compare(name, place):
    try:
        reality = CASES[name](place)
    finally:
        place.close()
    assert list(differences(CASES[name](Model()), reality)) == []


@pytest.mark.parametrize("name", sorted(CASES))
def test_on_a_file(view_program, tmp_path, name):
    compare(name, Real(tmp_path, view_program))


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("name", sorted(PLAIN))
def test_on_a_block_device(tmp_path, name, sector_size):
    backing = tmp_path / "backing"
    with open(backing, "wb") as file:
        file.write(bytes(SIZE))
    device = loop_device(backing, "--direct-io=on", "--sector-size", str(sector_size))
    try:
        compare(name, Real(tmp_path, None, device, sector_size))
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)
