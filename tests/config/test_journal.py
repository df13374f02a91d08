import logging
import os
import subprocess
import sys
import types

import pytest

from ovirt_he_ha.config import journal
from ovirt_he_ha.config.journal import LineFormatter, Throttle, reads_stderr, setup_logging, throttled


class Now:
    at = 0.0

    def __call__(self):
        return self.at


def record(text="text", name="logger", **extra):
    made = logging.makeLogRecord({"name": name, "msg": text, "levelname": "INFO"})
    for key, value in extra.items():
        setattr(made, key, value)
    return made


class TestThrottle:
    def setup_method(self):
        self.now = Now()
        self.throttle = Throttle(self.now)

    def passes(self, text="text", name="logger", message_class="class", interval=60.0):
        return self.throttle.filter(record(text, name, **throttled(message_class, interval)))

    def test_a_repeated_message_is_held_back(self):
        assert self.passes()
        assert not self.passes()
        self.now.at = 60.0
        assert self.passes()

    def test_a_changed_message_passes(self):
        assert self.passes("one")
        assert self.passes("two")
        assert self.passes("one")

    def test_loggers_and_classes_do_not_evict_each_other(self):
        assert self.passes("a", name="monitor.one")
        assert self.passes("b", name="monitor.two")
        assert self.passes("c", message_class="other")
        assert not self.passes("a", name="monitor.one")
        assert not self.passes("b", name="monitor.two")

    def test_other_messages_always_pass(self):
        assert self.throttle.filter(record())
        assert self.throttle.filter(record())

    def test_how_many_were_held_back(self):
        self.passes()
        self.passes()
        self.passes()
        self.now.at = 61.0
        late = record(**throttled("class"))
        assert self.throttle.filter(late)
        assert late.HE_REPEATED == 2

    def test_memory_is_bounded(self):
        for number in range(journal.MAX_REMEMBERED + 100):
            self.passes(message_class=str(number))
        assert len(self.throttle._last) == journal.MAX_REMEMBERED


def test_fields_follow_the_message():
    line = LineFormatter().format(record("moved", HE_STATE="EngineUp", HE_HOST_ID=2, other="x"))
    assert line.endswith("INFO logger moved HE_HOST_ID=2 HE_STATE=EngineUp")


def test_the_journal_is_recognised_by_device_and_inode(tmp_path):
    with open(tmp_path / "file", "w") as file:
        status = os.fstat(file.fileno())
        stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert reads_stderr(stream, file.fileno())
        assert not reads_stderr({"JOURNAL_STREAM": "1:2"}, file.fileno())
        assert not reads_stderr({}, file.fileno())
        descriptor = os.dup(file.fileno())
    os.close(descriptor)
    assert not reads_stderr(stream, descriptor)


PROGRAM = """
import logging, sys
from pathlib import Path
from ovirt_he_ha.config.journal import setup_logging, throttled
setup_logging("test", Path(sys.argv[1]))
setup_logging("test", Path(sys.argv[1]))
log = logging.getLogger("room")
for _ in range(3):
    log.info("again", extra=throttled("c", HE_STATE="EngineUp"))
log.debug("hidden")
"""


def run(conf):
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", PROGRAM, conf], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize("name", ["agent", "broker"])
def test_installed_configuration_and_standard_error(name):
    lines = run(f"etc/ovirt-hosted-engine-ha/{name}-log.conf")
    assert len(lines) == 1
    assert "HE_STATE=EngineUp" in lines[0]


def test_a_file_handler_where_the_configuration_asks_for_it(tmp_path):
    conf = tmp_path / "log.conf"
    conf.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=f\n[formatters]\nkeys=\n[logger_root]\nlevel=INFO\nhandlers=f\n"
        f"[handler_f]\nclass=FileHandler\nargs=({str(tmp_path / 'out')!r},)\n"
    )
    assert len(run(str(conf))) == 1
    assert (tmp_path / "out").read_text().splitlines() == ["again"]


def test_a_configuration_that_does_not_parse_costs_a_line(tmp_path):
    conf = tmp_path / "log.conf"
    conf.write_text("nonsense")
    lines = run(str(conf))
    assert any("again" in line for line in lines)
    assert any(str(conf) in line for line in lines)


def test_setup_replaces_its_own_handler():
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        setup_logging("one")
        setup_logging("two")
        assert len(root.handlers) == len(before) + 1
    finally:
        for handler in [each for each in root.handlers if each not in before]:
            root.removeHandler(handler)
        root.setLevel(level)
        for handler in before:
            handler.filters = [each for each in handler.filters if not isinstance(each, Throttle)]


class FakeJournal(types.ModuleType):
    class JournalHandler(logging.Handler):
        def __init__(self, **fields):
            super().__init__()
            self.fields = fields


def test_the_journal_gets_the_fields(monkeypatch):
    monkeypatch.setattr(journal, "reads_stderr", lambda: True)
    monkeypatch.setitem(sys.modules, "systemd", types.ModuleType("systemd"))
    monkeypatch.setitem(sys.modules, "systemd.journal", FakeJournal("systemd.journal"))
    handler, missing = journal._main_handler("ovirt-ha-agent")
    assert handler.fields == {"SYSLOG_IDENTIFIER": "ovirt-ha-agent"}
    assert not missing


def test_the_missing_binding_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(journal, "reads_stderr", lambda: True)
    monkeypatch.setitem(sys.modules, "systemd.journal", None)
    handler, missing = journal._main_handler("ovirt-ha-agent")
    assert isinstance(handler, logging.StreamHandler)
    assert "python3-systemd" in missing
