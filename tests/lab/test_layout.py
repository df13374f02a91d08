"""The plan: what is written is what is read, and a directory that cannot work is refused before anything is made."""

import json
import sysconfig
from pathlib import Path

import pytest

from ovirt_he_ha.lab import process, state
from ovirt_he_ha.lab.cluster import ClosedEnvironment, check_directory, check_environment, down
from ovirt_he_ha.lab.layout import Lab, NoLab, NoSuchHost, UnfitDirectory, directory_from


def lab_in(directory: Path) -> Lab:
    return Lab(str(directory), 2, 5.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "/venv", False, 1.0)


def test_plan_survives_the_disk(tmp_path: Path) -> None:
    lab = lab_in(tmp_path)
    state.save_plan(lab)
    assert state.load_lab(str(tmp_path)) == lab


def test_every_lab_has_uuids_of_its_own(tmp_path: Path) -> None:
    one, other = lab_in(tmp_path).identity, lab_in(tmp_path).identity
    assert one.vm != other.vm
    assert len({one.disk.volume, one.metadata.volume, one.lockspace.volume, one.configuration.volume}) == 4


def test_hosts(tmp_path: Path) -> None:
    lab = lab_in(tmp_path)
    assert lab.host_ids == [1, 2]
    assert (lab.host(2).address, lab.host(2).second_address) == ("10.9.0.2", "10.9.1.2")
    assert lab.host(1).mac(0) != lab.host(1).mac(1) != lab.host(2).mac(1)
    with pytest.raises(NoSuchHost):
        lab.host(3)
    with pytest.raises(NoSuchHost):
        lab.host(0)


def test_no_lab(tmp_path: Path) -> None:
    with pytest.raises(NoLab):
        state.load_lab(str(tmp_path))
    with pytest.raises(NoLab):
        state.running_lab(str(tmp_path))


def test_a_plan_without_its_keeper_is_a_wreck(tmp_path: Path) -> None:
    state.save_plan(lab_in(tmp_path))
    with pytest.raises(state.NotRunning):
        state.running_lab(str(tmp_path))


def test_keeper_is_known_by_its_start_time_too(tmp_path: Path) -> None:
    lab = lab_in(tmp_path)
    state.save_plan(lab)
    me = process.identify(1)
    assert me is not None
    state.save_keeper(lab, me)
    assert state.running_lab(str(tmp_path)) == lab
    state.save_keeper(lab, process.ProcessId(me.pid, me.started + 1))
    assert state.keeper_of(str(tmp_path)) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "started": 1}', '{"pid": 1}'])
def test_half_written_keeper_file(tmp_path: Path, text: str) -> None:
    (tmp_path / state.KEEPER).write_text(text)
    assert state.keeper_of(str(tmp_path)) is None


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with state.exclusive(str(tmp_path)), pytest.raises(state.Busy), state.exclusive(str(tmp_path)):
        raise AssertionError("entered twice")
    with state.exclusive(str(tmp_path)):
        pass


@pytest.mark.parametrize(
    "directory", ["/", "/run", "/run/lab", "/var/log/lab", "/etc/x", "/dev/shm/lab", "/var/lib/" + 40 * "x"]
)
def test_unfit_places(directory: str) -> None:
    with pytest.raises(UnfitDirectory):
        directory_from(directory)


def test_directory_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HE_LAB_DIR", "/srv/lab")
    assert directory_from(None) == "/srv/lab"
    assert directory_from("/opt/lab") == "/opt/lab"
    monkeypatch.delenv("HE_LAB_DIR")
    assert directory_from(None) == "/var/lib/he-lab"


def test_somebodys_files_are_left_alone(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o711)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UnfitDirectory, match="no lab's"):
        check_directory(str(tmp_path))
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) == '["thesis.tex"]'


def test_a_directory_closed_to_the_daemons(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(UnfitDirectory, match="closed"):
        check_directory(str(closed / "lab"))


def test_an_environment_closed_to_the_daemons(tmp_path: Path) -> None:
    packages = Path(sysconfig.get_paths(vars={"base": str(tmp_path), "platbase": str(tmp_path)})["purelib"])
    packages.mkdir(parents=True, mode=0o755)
    (tmp_path / "bin").mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    check_environment("")
    check_environment(str(tmp_path))
    packages.chmod(0o700)
    with pytest.raises(ClosedEnvironment, match="chmod"):
        check_environment(str(tmp_path))


@pytest.mark.skipif("os.geteuid() != 0", reason="he-lab runs as root")
def test_down_without_a_lab(tmp_path: Path) -> None:
    assert not down(str(tmp_path / "nothing"))
    (tmp_path / "mine").write_text("")
    assert not down(str(tmp_path))
    assert (tmp_path / "mine").exists()
