"""Scripted tools: ``mount``, ``iscsiadm``, ``lvm`` and others, that check every argument of every call."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ovirt_he_ha.storage.command import Commands
from ovirt_he_ha.storage.errors import DomainProblem

TOOLS = ("mount", "umount", "iscsiadm", "lvm", "udevadm", "multipath", "sh")
TOOL = Path(__file__).with_name("scripted_tool.py")


class Script:
    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        self.directory.chmod(0o755)
        program = self.directory / "tool"
        program.write_text(f"#!{os.path.realpath(sys.executable)} -I\n" + TOOL.read_text().split("\n", 1)[1])
        program.chmod(0o755)
        for tool in TOOLS:
            shutil.copy(program, self.directory / tool)
        self.path = self.directory / "steps.json"
        self.path.write_text("[]")

    def expect(self, *argv, **step):
        steps = json.loads(self.path.read_text())
        steps.append({"argv": [str(word) for word in argv], **step})
        self.path.write_text(json.dumps(steps))
        return self

    @property
    def commands(self):
        return Commands({"PATH": str(self.directory)})

    def done(self):
        """That every step was taken, and nothing else was called."""
        unexpected = self.directory / "unexpected"
        assert not unexpected.exists(), unexpected.read_text()
        assert json.loads(self.path.read_text()) == []


def refusal(call):
    """The problem that ``call`` raises."""
    with pytest.raises(DomainProblem) as caught:
        call()
    return caught.value
