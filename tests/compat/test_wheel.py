"""The thin package, built, installed and imported as others do it: without network, in a process of its own."""

import configparser
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import ovirt_he_ha
from ovirt_he_ha.core.slot import encode_global
from tests.client.deployed import UUIDS, Host, record

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "compat"


def missing():
    """What this interpreter lacks to build a wheel."""
    if importlib.util.find_spec("setuptools") is None:
        return "setuptools"
    import setuptools

    own = int(setuptools.__version__.split(".")[0]) >= 71
    return "" if own or importlib.util.find_spec("wheel") else "wheel, or setuptools from 71 on"


pytestmark = pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: the checkout stays as it is."""
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "compat"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    pip(["wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(place), str(copy)])
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture
def site(wheel, tmp_path):
    """A directory with the package and nothing else."""
    target = tmp_path / "site"
    pip(["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)])
    return target


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path / "host")
    host.broker.slots = {0: encode_global(True), 1: record(1), 2: record(2, maintenance=True)}
    host.broker.alive = [1]
    server = host.serve()
    yield host
    server.stop(2.0)


def pip(words):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run(code, site, root, *more_paths):
    """The JSON that the code prints."""
    path = os.pathsep.join([*map(str, more_paths), str(site), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OVIRT_HE_ROOT": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=str(root), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


# --- the wheel ----------------------------------------------------------------------------------------------------


def test_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (place,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(place).decode())
    assert metadata["Name"] == "ovirt-he-ha-compat"
    assert metadata["Version"] == ovirt_he_ha.__version__
    needed = [each.translate(str.maketrans("", "", " ()")) for each in metadata.get_all("Requires-Dist")]
    assert needed == ["ovirt-he-ha>=0.1"]
    assert metadata["Obsoletes"] == metadata["Provides"] == "ovirt_hosted_engine_ha"
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"ovirt_hosted_engine_ha"}
    packed = {name.partition("/")[2] for name in names if name.endswith(".py")}
    source = SOURCE / "ovirt_hosted_engine_ha"
    assert packed == {str(path.relative_to(source)) for path in source.rglob("*.py")}


def test_it_is_no_part_of_the_main_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.packages.find"]["include"].split() == ["ovirt_he_ha*"]


# --- as vdsm does it ----------------------------------------------------------------------------------------------

STATISTICS = """
import json
from ovirt_hosted_engine_ha.client import client
he = client.HAClient()
own = he.get_local_host_id()
stats = he.get_all_stats(timeout=5)
found = {
    "configured": bool(own),
    "active": stats[own]["live-data"],
    "score": stats[own]["score"],
    "globalMaintenance": stats[0].get("maintenance", False),
    "localMaintenance": stats[own]["maintenance"],
    "deployed": he.is_deployed(),
    "hosts": sorted(he.get_all_host_stats()),
    "own score": he.get_local_host_score(timeout=5),
}
print(json.dumps(found))
"""


def test_host_statistics(site, host):
    assert run(STATISTICS, site, host.paths.root) == {
        "configured": True,
        "active": True,
        "score": 3400,
        "globalMaintenance": True,
        "localMaintenance": False,
        "deployed": True,
        "hosts": [1, 2],
        "own score": 3400,
    }


MAINTENANCE = """
import json
from ovirt_hosted_engine_ha.client import client
modes = client.HAClient.MaintenanceMode
client.HAClient().set_maintenance_mode(modes.GLOBAL, False, timeout=60)
client.HAClient().set_maintenance_mode(modes.LOCAL, True, timeout=60)
after = client.HAClient().get_all_stats(timeout=5)
print(json.dumps([after[0], client.HAClient.GlobalMdFlags.MAINTENANCE]))
"""


def test_maintenance(site, host):
    assert run(MAINTENANCE, site, host.paths.root) == [{"maintenance": False}, "maintenance"]
    assert host.broker.slots[0].rstrip(b"\0") == b"maintenance=0"
    assert "local_maintenance=True\n" in host.paths.ha_conf.read_text()


BROKEN = """
import errno, json
from ovirt_hosted_engine_ha.client import client
try:
    client.HAClient().get_all_stats(timeout=5)
except OSError as error:
    print(json.dumps(error.errno == errno.ENOENT))
"""


def test_no_broker(site, tmp_path):
    assert run(BROKEN, site, tmp_path) is True


OTHER_NAMES = """
import json, logging, sys
from ovirt_hosted_engine_ha.agent import constants
from ovirt_hosted_engine_ha.client import client
from ovirt_hosted_engine_ha.env import config, config_constants
from ovirt_hosted_engine_ha.lib import exceptions, util
found = {
    "version": constants.PACKAGE_VERSION,
    "vmid": config.Config().get(config.ENGINE, config_constants.HEVMID),
    "absent": config.Config(logger=None).get(config.ENGINE, "nothing"),
}
try:
    config.Config().get("other", "vmid")
except ValueError:
    found["type"] = "refused"
try:
    util.connect_vdsm_json_rpc(logger=logging.getLogger(), timeout=5)
except ImportError as error:
    found["vdsm"] = "absent"
try:
    client.HAClient().get_all_stats(timeout=5)
except exceptions.BrokerConnectionError as error:
    found["caught"] = isinstance(error, OSError)
found["one"] = issubclass(exceptions.DisconnectionError, (exceptions.BrokerConnectionError, ConnectionResetError))
print(json.dumps(found))
"""


def test_the_other_names(site, tmp_path):
    host = Host(tmp_path / "host")
    assert run(OTHER_NAMES, site, host.paths.root) == {
        "version": ovirt_he_ha.__version__,
        "vmid": UUIDS["vmid"],
        "absent": None,
        "type": "refused",
        "vdsm": "absent",
        "caught": True,
        "one": True,
    }


def test_the_way_to_vdsm(site, tmp_path):
    library = tmp_path / "stand-in" / "vdsm"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("")
    (library / "client.py").write_text("def connect(host, port, timeout):\n    return [host, port, timeout]\n")
    code = (
        "import json\n"
        "from ovirt_hosted_engine_ha.lib.util import connect_vdsm_json_rpc as connect\n"
        "print(json.dumps([connect(), connect(timeout=5)]))"
    )
    found = run(code, site, tmp_path, tmp_path / "stand-in")
    assert found == [["localhost", 54321, 900.0], ["localhost", 54321, 5]]


# --- beside oVirt's own -------------------------------------------------------------------------------------------

REFUSED = """
import json, logging
said = []
class Listen(logging.Handler):
    def emit(self, record):
        said.append(record.levelname)
logging.getLogger("ovirt_hosted_engine_ha").addHandler(Listen())
try:
    from ovirt_hosted_engine_ha.client import client
    print(json.dumps("imported"))
except ImportError as error:
    print(json.dumps([said, error.path]))
"""


def test_files_of_the_other_package_among_ours(site, tmp_path):
    alien = site / "ovirt_hosted_engine_ha" / "agent" / "other.py"
    alien.write_text("")
    assert run(REFUSED, site, tmp_path) == [["ERROR"], str(alien)]


def test_the_other_package_further_down_the_path(site, tmp_path):
    other = tmp_path / "other" / "ovirt_hosted_engine_ha"
    other.mkdir(parents=True)
    assert run(REFUSED, tmp_path / "other", tmp_path, site) == "imported"
    (other / "__init__.py").write_text("")
    assert run(REFUSED, tmp_path / "other", tmp_path, site) == [["ERROR"], str(other)]


def test_installed_twice(site, tmp_path):
    shutil.copytree(site, tmp_path / "again")
    assert run(REFUSED, site, tmp_path, tmp_path / "again") == "imported"
