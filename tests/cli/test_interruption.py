"""Ctrl-C where no verb runs yet, and where none runs any more."""

import json
import os
import signal
import subprocess
import sys
from typing import List, Tuple

import pytest

from tests.cli.world import World, record

# The program, which is sent the signal when it looks for one of its modules. What a shell runs in the background begins
# deaf to it.
_AT_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.{before})
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.modules.pop({module!r}, None)
sys.meta_path.insert(0, Finder)
from ovirt_he_ha.cli.main import main
sys.exit(main())
"""
_AT_EXIT = """
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
from ovirt_he_ha.cli.main import main
sys.exit(main())
"""
MODULES = (
    "ovirt_he_ha.cli.program", "json", "dataclasses", "ovirt_he_ha.cli.request", "ovirt_he_ha.cli.status",
    "ovirt_he_ha.config.files",
)  # fmt: skip


def program(script: str, *words: str) -> Tuple[int, str, str]:
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("words", [["--vm-status"], ["--vm-status", "--json"]])
def test_ctrl_c_during_the_imports_is_one_line_and_130(host: World, module: str, words: List[str]) -> None:
    script = _AT_IMPORT.format(module=module, before="default_int_handler")
    status, out, err = program(script, *words)
    assert status == 130, err
    if "--json" in words:
        assert json.loads(out)["error"]["code"] == "interrupted" and err == ""
    else:
        assert (out, err) == ("", "\ninterrupted\n")


def test_a_program_in_the_background_of_a_shell_stays_deaf(world: World) -> None:
    world.publish(record(1))
    script = _AT_IMPORT.format(module="ovirt_he_ha.cli.request", before="SIG_IGN")
    status, out, err = program(script, "--vm-status", "--json")
    assert (status, err) == (0, "") and "1" in json.loads(out)


def test_ctrl_c_after_the_answer_spoils_nothing(world: World) -> None:
    world.publish(record(1))
    status, out, err = program(_AT_EXIT, "--vm-status", "--json")
    assert err == "" and out.count("\n") == 1 and "1" in json.loads(out)
    assert status == -signal.SIGINT  # 130 to a shell


def test_a_pager_that_got_the_same_ctrl_c_is_no_second_error(host: World) -> None:
    script = _AT_IMPORT.format(module="ovirt_he_ha.cli.failure", before="default_int_handler")  # by then the verb runs
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as gone:
        command = [sys.executable, "-c", script, "--why", "--json"]
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (130, "")
