"""The device nodes of a volume group's volumes: whose they are, and when they are there."""

import contextlib
import os
from pathlib import Path
from typing import Optional, Sequence, Tuple

from ovirt_he_ha.storage.command import CommandError, Commands
from ovirt_he_ha.storage.errors import ConnectionProblem
from ovirt_he_ha.storage.volumes import MODE

COMMAND = 20.0  # wall seconds for one call of udevadm


class DeviceNodes:
    """``owner`` None: they stay whose they are."""

    def __init__(self, sd_uuid: str, root: Path, owner: Optional[Tuple[int, int]], commands: Commands) -> None:
        self._sd_uuid = sd_uuid
        self._root = root
        self._owner = owner
        self._commands = commands

    def write_rule(self) -> None:
        """The nodes belong to the daemons, and do so again after each event of the device."""
        rule = f'ENV{{DM_VG_NAME}}=="{self._sd_uuid}", ENV{{DM_LV_NAME}}=="?*", OWNER:="36", GROUP:="36", '
        rule += f'MODE:="{MODE:04o}"\n'
        path = self._rule_path()
        if not os.path.exists(path) or path.read_text(encoding="ascii", errors="replace") != rule:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            path.write_text(rule, encoding="ascii")
            self._udevadm("control", "--reload")

    def forget_rule(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._rule_path())

    def _rule_path(self) -> Path:
        return self._root / "run" / "udev" / "rules.d" / "99-ovirt-ha-storage.rules"

    def own(self, names: Sequence[str]) -> None:
        """Raises ConnectionProblem ``no-volume``, OSError."""
        directory = self._root / "dev" / self._sd_uuid
        for name in names:
            try:
                os.chown(directory / name, *(self._owner or (-1, -1)))
                os.chmod(directory / name, MODE)
            except FileNotFoundError as error:
                raise ConnectionProblem(
                    "no-volume",
                    str(directory / name),
                    "the device node of the activated volume",
                    "udev did not make it in time: look at udevadm monitor",
                ) from error

    def settle(self, seconds: float) -> None:
        """Wait until the nodes of what changed are there, at most ``seconds`` (wall)."""
        self._udevadm("settle", f"--timeout={max(1, int(min(COMMAND, seconds)) - 1)}")

    def _udevadm(self, *words: str) -> None:
        # Its failure shows in what is looked for next: no device node, the wrong owner.
        with contextlib.suppress(CommandError):
            self._commands.run(["udevadm", *words], COMMAND)
