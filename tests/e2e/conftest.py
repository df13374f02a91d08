"""A lab for the tests. There can be one on a machine, so each module that asks for one gets it, and it ends with the
module."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from ovirt_he_ha.lab import state
from ovirt_he_ha.lab.layout import Lab

DIRECTORY = os.environ.get("HE_LAB_DIR", "/var/lib/he-lab-test")
CHECKOUT = Path(__file__).resolve().parents[2]


def missing_components() -> List[str]:
    needed = ("/usr/sbin/libvirtd", "/usr/sbin/sanlock", "qemu-system-x86_64", "unshare", "nsenter", "setpriv", "ip")
    found = [tool for tool in needed if shutil.which(tool) is None]
    return found if os.geteuid() == 0 else [*found, "root"]


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    missing = missing_components()
    for item in items:
        if Path(str(item.fspath)).parent != Path(__file__).parent:
            continue
        item.add_marker(pytest.mark.e2e)
        item.add_marker(pytest.mark.timeout(600))
        if missing:
            item.add_marker(pytest.mark.skip(reason="missing: " + ", ".join(missing)))


@pytest.fixture(scope="session")
def command() -> "Callable[..., subprocess.CompletedProcess[str]]":
    return he_lab


def he_lab(*words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", "ovirt_he_ha.lab.main", *words],
        env={**os.environ, "HE_LAB_DIR": DIRECTORY},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, f"he-lab {' '.join(words)}: {done.stdout}{done.stderr}"
    return done


def made(*options: str) -> Iterator[Lab]:
    he_lab("up", *options)
    try:
        yield state.load_lab(DIRECTORY)
    finally:
        he_lab("down")


@pytest.fixture(scope="module")
def bare_lab() -> Iterator[Lab]:
    """Three hosts with libvirtd and sanlock, without our daemons."""
    yield from made("--no-daemons")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three whole hosts, the engine healthy."""
    yield from made()
