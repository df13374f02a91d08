"""LVM, as far as a block domain needs it: what is in its volume group, and its volumes on and off.

The group's metadata belongs to the management application, and two writers destroy it: so it is written for one thing
alone, a volume that was lost and that somebody at the command line has made anew (``block_volume``). Activation is by
name and for the domain's own volumes alone; nothing here, nor a tool that this calls, activates
anything by itself.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ovirt_he_ha.storage.command import CommandError, Commands, shown
from ovirt_he_ha.storage.errors import ConnectionProblem

# The host's own configuration may hide the domain's devices, so that nothing activates them by itself: a devices file,
# a filter. It is set aside for the calls below. Volumes of guests inside of volumes are not looked for, nor are the
# single paths of a multipath device.
CONFIGURATION = (
    "devices { ignore_suspended_devices=1 use_devicesfile=0 scan_lvs=0 multipath_component_detection=1 "
    'hints="none" filter=["a|.*|"] global_filter=["a|.*|"] } '
    "activation { auto_activation_volume_list=[] } backup { backup=0 archive=0 }"
)
NOT_FOUND = 5  # lvm's status for every failure, "not found" included
_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")
_REFUSED = {
    "insufficient free space": ("full", "free space in the group", "extend it, or remove what is not needed"),
    "already exists": ("in-use", "no volume of that name", "somebody else made it in this moment: look at it first"),
}
_SLOT = re.compile(r"MD_([0-9]{1,6})")


@dataclass(frozen=True)
class LogicalVolume:
    name: str
    size: int  # bytes
    active: bool
    tags: Tuple[str, ...]

    @property
    def slot(self) -> int:
        """Its number in the volume of all leases; -1 without a tag that says so."""
        for tag in self.tags:
            found = _SLOT.fullmatch(tag)
            if found:
                return int(found.group(1))
        return -1


@dataclass(frozen=True)
class Group:
    uuid: str
    tags: Mapping[str, str]  # MDT_<name>=<value>, by name
    writable: bool
    exported: bool
    missing: int  # physical volumes that are not there
    volumes: Mapping[str, LogicalVolume]
    devices: Tuple[str, ...]  # of its physical volumes
    duplicates: Tuple[str, ...]  # devices that carry the same physical volume once more


class NoGroup(Exception):
    """No device that this host sees carries it."""


class VolumeGroup:
    """The volume group ``name``. Every call ends within ``seconds`` (wall) or raises CommandError."""

    def __init__(self, name: str, commands: Commands) -> None:
        self.name = name
        self._commands = commands

    def look(self, seconds: float) -> Group:
        """Raises NoGroup, CommandError."""
        rows = self._report(
            "pvs",
            "-a",
            "-o",
            "pv_name,vg_name,vg_uuid,pv_missing,pv_duplicate",
            "-S",
            f"vg_name={self.name}",
            seconds=seconds,
        )
        if not rows:
            raise NoGroup(self.name)
        fields = "vg_uuid,vg_attr,vg_tags,vg_missing_pv_count,lv_name,lv_size,lv_active,lv_tags"
        volumes = self._report("lvs", "-o", fields, self.name, seconds=seconds)
        if not volumes:
            raise NoGroup(self.name)
        return _group(rows, volumes)

    def activate(self, names: Sequence[str], seconds: float) -> None:
        """Raises CommandError; then some may be active."""
        self._change("-ay", names, seconds)

    def deactivate(self, names: Sequence[str], seconds: float) -> None:
        """Raises ConnectionProblem ``busy`` while one is open, CommandError."""
        try:
            self._change("-an", names, seconds)
        except CommandError as error:
            if re.search(r"in use|busy", error.said):
                raise ConnectionProblem(
                    "busy",
                    self.name,
                    "no process that has its volumes open",
                    "end what uses them: the VM, the daemons, sanlock's lockspaces",
                    str(error),
                ) from error
            raise

    def space(self, seconds: float) -> Tuple[int, int]:
        """Bytes that no volume has, and bytes of an extent, in whose units volumes are made. Raises CommandError."""
        (row,) = self._report("vgs", "-o", "vg_free,vg_extent_size", self.name, seconds=seconds) or ({},)
        try:
            return int(row["vg_free"]), int(row["vg_extent_size"])
        except (KeyError, ValueError) as error:
            raise CommandError(
                "failed", "lvm vgs", 0, f"its report has other fields than asked for ({error})"
            ) from error

    def create(self, name: str, size: int, tags: Sequence[str], seconds: float) -> None:
        """A linear volume of exactly ``size`` bytes, a multiple of the extents', active, with what the extents held
        before. Raises ConnectionProblem ``full``, ``in-use`` (it exists), CommandError."""
        marks = [word for tag in tags for word in ("--addtag", tag)]
        # Neither zeroed nor wiped by LVM: that would be the first 4 KiB alone.
        words = ["--yes", "--type", "linear", "--activate", "y", "--zero", "n", "--wipesignatures", "n"]
        argv = ["lvm", "lvcreate", "--config", CONFIGURATION, *words, "--size", f"{size}b", *marks]
        try:
            self._commands.run([*argv, "--name", name, self.name], seconds)
        except CommandError as error:
            for words_of_it, (code, expected, what_to_do) in _REFUSED.items():
                if words_of_it in error.said:
                    raise ConnectionProblem(code, f"{self.name}/{name}", expected, what_to_do, error.said) from error
            raise

    def remove(self, name: str, seconds: float) -> None:
        """Raises CommandError."""
        self._commands.run(["lvm", "lvremove", "--config", CONFIGURATION, "--yes", f"{self.name}/{name}"], seconds)

    def _change(self, how: str, names: Sequence[str], seconds: float) -> None:
        targets = [f"{self.name}/{name}" for name in names]
        self._commands.run(["lvm", "lvchange", "--config", CONFIGURATION, how, *targets], seconds)

    def _report(self, *words: str, seconds: float) -> List[Dict[str, str]]:
        argv = ["lvm", words[0], "--config", CONFIGURATION, *_REPORT, *words[1:]]
        outcome = self._commands.run(argv, seconds, accept=(0, NOT_FOUND))
        if outcome.status == NOT_FOUND and not re.search(r"not found|Cannot process volume group", outcome.err):
            raise CommandError("failed", shown(argv), outcome.status, " ".join(outcome.err.split())[-600:])
        return _rows(argv, outcome.out)


def _rows(argv: List[str], text: str) -> List[Dict[str, str]]:
    """The one list of ``{"report": [{"pv": [...]}]}``."""
    try:
        (report,) = json.loads(text)["report"]
        ((_, rows),) = report.items()
        return [{str(key): str(value) for key, value in row.items()} for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError("failed", " ".join(argv[:2]), 0, "its report cannot be read") from error


def _group(devices: List[Dict[str, str]], rows: List[Dict[str, str]]) -> Group:
    first = rows[0]
    try:
        tags = dict(tag[len("MDT_") :].split("=", 1) for tag in _list(first["vg_tags"]) if _is_value(tag))
        volumes = {row["lv_name"]: _volume(row) for row in rows if row["lv_name"]}
        attributes = first["vg_attr"]
        return Group(
            uuid=first["vg_uuid"],
            tags=tags,
            writable=attributes[:1] == "w",
            exported=attributes[2:3] == "x",
            missing=int(first["vg_missing_pv_count"] or 0),
            volumes=volumes,
            devices=tuple(row["pv_name"] for row in devices if row["pv_duplicate"] != "duplicate"),
            duplicates=tuple(row["pv_name"] for row in devices if row["pv_duplicate"] == "duplicate"),
        )
    except (KeyError, ValueError) as error:
        raise CommandError("failed", "lvm lvs", 0, f"its report has other fields than asked for ({error})") from error


def _volume(row: Dict[str, Any]) -> LogicalVolume:
    tags = tuple(_list(row["lv_tags"]))
    return LogicalVolume(row["lv_name"], int(row["lv_size"]), row["lv_active"] == "active", tags)


def _is_value(tag: str) -> bool:
    return tag.startswith("MDT_") and "=" in tag


def _list(text: str) -> List[str]:
    return [part for part in text.split(",") if part]
