import os
import re
from dataclasses import replace
from io import StringIO

import pytest

from ovirt_he_ha.broker.protocol import StorageFacts
from ovirt_he_ha.cli import sources, table
from ovirt_he_ha.config.files import load_hosted_engine_conf
from ovirt_he_ha.core import slot
from ovirt_he_ha.core.model import LeaseOwner, Reading
from tests.cli.world import UP, World, record, run


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def hosts(world: World) -> World:
    world.publish(
        record(1, engine=UP, extra=(("state", "EngineUp"),)),
        record(2, hostname="a-host-with-a-long-name.in.a.long.domain.example", maintenance=True, score=0),
        record(3, stopped=True),
    )
    world.slots[4] = b"1|garbage".ljust(4096, b"\0")
    world.alive = [1, 2]
    world.leases(owner=Reading.of(LeaseOwner(1, 3, 9), age=2.0))
    return world


def drawn(world: World, width: int, monkeypatch: pytest.MonkeyPatch, **environ: str) -> str:
    monkeypatch.setattr(table.shutil, "get_terminal_size", lambda _default: os.terminal_size((width, 25)))
    for name, value in {"TERM": "xterm", "NO_COLOR": "", **environ}.items():
        monkeypatch.setenv(name, value)
    view = sources.gather(world.paths, load_hosted_engine_conf(world.paths.hosted_engine_conf))
    return table.table(view, 1, Screen())


def test_one_line_per_host(hosts: World) -> None:
    ran = run("--vm-status", "--table")
    lines = ran.out.splitlines()
    assert ran.status == 0 and "\x1b" not in ran.out
    joined = [" ".join(line.split()) for line in lines]
    assert joined[0] == "ID HOST SCORE VM HEALTH STATE MAINTENANCE LIVE SANLOCK AGE FROM"
    assert joined[1] == "* 1 host1 3400 up good EngineUp - yes live 1 s broker"
    assert joined[2].endswith(" 0 down bad EngineDown in maintenance yes live 1 s broker")
    assert joined[3].startswith("3 host3 3400 down bad stopped -")
    assert "unreadable" in lines[4]
    assert lines[5] == "The VM's lease is held by host 1 (host1), read 2 s ago"
    assert len(lines) == 6


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 50])
def test_it_is_as_wide_as_the_screen(hosts: World, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = [re.sub("\x1b\\[[0-9]*m", "", line) for line in drawn(hosts, width, monkeypatch).splitlines()][:5]
    assert max(len(line) for line in lines) <= width
    for title in ("ID", "HOST", "SCORE", "VM", "LIVE"):
        assert title in lines[0]
    assert ("FROM" in lines[0]) == (width >= 120)


def test_colours_only_where_they_are_seen(hosts: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(hosts, 120, monkeypatch).splitlines()
    assert [line[:5] for line in lines[1:5]] == ["\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[31m"]
    assert "\x1b" not in drawn(hosts, 120, monkeypatch, NO_COLOR="1")
    assert "\x1b" not in drawn(hosts, 120, monkeypatch, TERM="dumb")


def test_problems_and_global_maintenance_stand_below(hosts: World) -> None:
    hosts.slots[0] = slot.encode_global(True)
    hosts.facts = replace(hosts.facts, storage=StorageFacts("missing", 5.0, "/dev/x"))
    lines = run("--vm-status", "--table").out.splitlines()
    assert "GLOBAL MAINTENANCE" in lines[5] and "missing" in lines[-1]


def test_what_a_slot_says_cannot_steer_the_terminal(hosts: World) -> None:
    hosts.publish(record(2, extra=(("state", "a\x1b[2Jb"),)))
    assert "\x1b" not in run("--vm-status", "--table").out


@pytest.mark.parametrize(
    "words", [("--table", "--json"), ("--watch", "--json"), ("--watch", "--stream"), ("--table", "--stream")]
)
def test_what_excludes_each_other(hosts: World, words: tuple) -> None:
    assert run("--vm-status", *words).status == 1
