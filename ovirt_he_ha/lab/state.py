"""The lab's state on disk: the plan, and who keeps it. A lab runs while its keeper lives; without one it is a wreck."""

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Iterator, Optional

from ovirt_he_ha.lab import process
from ovirt_he_ha.lab.layout import Lab, LabError, NoLab

PLAN = "lab.json"
KEEPER = "keeper.json"


class LabExists(LabError):
    def __init__(self, directory: str) -> None:
        self.directory = directory
        super().__init__(
            f"A lab is already running in {directory}: look at it with `he-lab status --dir {directory}`, "
            f"remove it with `he-lab down --dir {directory}`. There can be one on a machine."
        )


class Busy(LabError):
    def __init__(self, directory: str) -> None:
        super().__init__(f"Another he-lab command is making or removing the lab in {directory}: wait for it.")


class NotRunning(LabError):
    def __init__(self, directory: str) -> None:
        super().__init__(
            f"The lab in {directory} does not run any more (it crashed, or its making failed): `he-lab down` clears it."
        )


def save_plan(lab: Lab) -> None:
    _write(lab.root / PLAN, lab.to_json())


def load_lab(directory: str) -> Lab:
    """Raises NoLab."""
    try:
        text = (Path(directory) / PLAN).read_text()
    except FileNotFoundError as e:
        raise NoLab(directory) from e
    return Lab.from_dict(json.loads(text))


def save_keeper(lab: Lab, keeper: process.ProcessId) -> None:
    _write(lab.root / KEEPER, json.dumps(asdict(keeper)))


def keeper_of(directory: str) -> Optional[process.ProcessId]:
    """The living keeper, as pids are seen from here; None when the lab is down."""
    try:
        data = json.loads((Path(directory) / KEEPER).read_text())
        keeper = process.ProcessId(int(data["pid"]), int(data["started"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # never made, or its maker died while writing: then there is nothing alive either
    return keeper if process.alive(keeper) else None


def running_lab(directory: str) -> Lab:
    """Raises NoLab, NotRunning."""
    lab = load_lab(directory)
    if keeper_of(directory) is None:
        raise NotRunning(directory)
    return lab


@contextmanager
def exclusive(directory: str) -> Iterator[None]:
    """Hold the directory for making or removing a lab; the kernel lets go of it when the command dies. Raises Busy."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Busy(directory) from e
        yield
    finally:
        os.close(fd)


class DrillRuns(LabError):
    def __init__(self) -> None:
        super().__init__("Another drill is running in this lab: wait for its end.")


@contextmanager
def drilling(directory: str) -> Iterator[None]:
    """One drill at a time. Raises DrillRuns."""
    with open(Path(directory) / PLAN, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise DrillRuns() from e
        yield


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.rename(path)
