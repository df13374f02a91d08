"""Compiling what the lab compiles, and what is said where that cannot be done."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from ovirt_he_ha.lab import native_code
from ovirt_he_ha.lab.layout import Lab


def test_both_are_built_for_everybody(tmp_path: Path) -> None:
    if shutil.which("gcc") is None or subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode:
        pytest.skip("missing: gcc, pkg-config or libfuse3-dev")
    lab = Lab(str(tmp_path), 1, 1.0, "10.9.0.0/24", "10.9.1.0/24", "/usr/bin/python3", "")
    native_code.build(lab)
    assert sorted(os.listdir(lab.native)) == ["storage_view", "watchdog_device.so"]
    for path in lab.native.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o755
    done = subprocess.run([str(lab.view_program)], capture_output=True, check=False)
    assert done.returncode == 2


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(native_code.NotBuilt, match="gcc"):
        native_code.build_device(tmp_path / "x.so")
    with pytest.raises(native_code.NotBuilt, match="libfuse3-dev"):
        native_code.build_view(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_no_fuse_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_code, "FUSE_DEVICE", tmp_path / "fuse")
    with pytest.raises(native_code.NoFuse, match="/fuse is missing"):
        native_code.check_fuse()
    (tmp_path / "fuse").touch()
    with pytest.raises(native_code.NoFuse):
        native_code.check_fuse()
