"""W-53, W-61 to W-65, W-69 and W-70: what the package does not contain, and what it keeps to itself."""

import ast
import logging
import os
import re
import smtplib
import socketserver
import stat
import threading
from pathlib import Path

import pytest

from ovirt_he_ha.broker import notify
from ovirt_he_ha.broker.notify import Mail
from ovirt_he_ha.client.ha_client import HAClient
from ovirt_he_ha.config.files import BrokerConf, load_broker_conf, load_hosted_engine_conf
from ovirt_he_ha.config.journal import Throttle, throttled
from ovirt_he_ha.config.text import ConfigError
from tests.broker.test_notify import Desk
from tests.cli.world import World as Host
from tests.cli.world import record as host_record
from tests.cli.world import run as hosted_engine

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ovirt_he_ha"
ENTRY_POINTS = ("agent.service", "agent.__main__", "broker.service", "cli.main", "cli.reference", "client.ha_client")
WORKBENCH = ("lab.", "sim.")  # what runs on developers' machines


def all_modules():
    """Module name -> source."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path.read_text()
    return found


def modules():
    """The product's, without its workbench."""
    return {name: source for name, source in all_modules().items() if not name.startswith(WORKBENCH)}


def calls(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg for keyword in node.keywords}


def test_w53_every_program_that_is_waited_for_has_a_deadline():
    for name, source in modules().items():
        for called, keywords in calls(source):
            if called.startswith("subprocess.") and not called.endswith("Popen"):
                assert "timeout" in keywords, f"{name}: {called} without timeout"
            assert called not in ("os.system", "os.popen"), name


def test_w53_the_daemons_start_no_program_but_the_storage_worker():
    rooms = ("agent.", "broker.", "core.", "hypervisor.", "lease.", "storage.", "config.", "client.")
    users = {name for name, source in modules().items() if name.startswith(rooms) and "subprocess." in source}
    assert users == {"storage.io_worker", "lease.resource_lock", "storage.command"}
    # The lock of a change of the configuration: for whoever changes it, which no daemon does. And the agent's, with a
    # deadline, after a start that failed: it clears the record that this host left on the VM's lease.
    locked = {name for name, source in modules().items() if "lease.resource_lock import" in source}
    assert locked == {"client.archive_lock", "lease.give_back"}
    assert {name for name, source in modules().items() if "lease.give_back import" in source} == {"agent.service"}
    assert {name for name, source in modules().items() if "client.archive_lock import" in source} == {
        "client.shared_config"
    }


def imported(source, known):
    """The modules of ours that the text imports; names in other texts do not count."""
    wanted = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ovirt_he_ha."):
            base = node.module[len("ovirt_he_ha.") :]
            wanted |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return wanted & known


def reached_from(start, sources):
    """Modules that are imported with it, at any depth."""
    reached, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += imported(sources[name], set(sources))
    return reached


def test_w53_storage_is_connected_by_the_command_line_alone():
    """mount, iscsiadm and lvm need root and may hang for minutes: no daemon has them within its reach."""
    sources = modules()
    for daemon in ("agent.service", "broker.service", "client.ha_client"):
        assert not {"storage.command", "storage.connection"} & reached_from(daemon, sources), daemon
    assert "storage.command" in reached_from("cli.storage", sources)


# --- W-61 -------------------------------------------------------------------------------------------------------------


def test_w61_messages_of_one_class_in_two_loggers_do_not_evict_each_other():
    throttle = Throttle(lambda: 1000.0)

    def passes(logger, message):
        record = logging.makeLogRecord({"name": logger, "msg": message, **throttled("status")})
        return throttle.filter(record)

    assert [passes(logger, f"{logger} is well") for logger in ("memory", "network") * 3] == [True, True] + [False] * 4
    assert passes("memory", "memory is low")


# --- W-62, W-63 -------------------------------------------------------------------------------------------------------


def imports(name, source, known):
    """The modules of ours that ``name`` imports, or names as text (the verbs of the command line)."""
    wanted = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ovirt_he_ha"):
            base = node.module[len("ovirt_he_ha.") :]
            wanted |= {base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)}
        elif isinstance(node, ast.Import):
            wanted |= {alias.name[len("ovirt_he_ha.") :] for alias in node.names if alias.name.startswith("ovirt_he")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            wanted |= {node.value, f"{name.rpartition('.')[0]}.{node.value}", f"storage.{node.value[:-3]}"}
    return wanted & known


def test_w62_every_module_is_used():
    sources = all_modules()
    reached, waiting = set(), [name for name in sources if name in ENTRY_POINTS or name.startswith(WORKBENCH)]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += imports(name, sources[name], set(sources))
            waiting += {name.rpartition(".")[0]} & set(sources)
    assert set(sources) - reached == set(), "dead code, or not used yet"


def test_w63_no_change_is_taken_with_less_than_98_percent_of_the_core_covered():
    check = (ROOT / "scripts" / "check").read_text()
    assert re.search(r"coverage report --include='ovirt_he_ha/core/\*' --fail-under=(9[89]|100)\b", check)


# --- W-64, W-65, W-70 -------------------------------------------------------------------------------------------------


def test_w64_nothing_runs_with_the_rights_of_root():
    assert [name for name, source in modules().items() if re.search(r"\bsudo\b", source)] == []
    assert [path for path in (ROOT / "etc").rglob("*") if "sudoers" in path.name] == []
    for name, capability in (("broker", "CAP_NET_RAW"), ("agent", "CAP_KILL")):
        text = (ROOT / "systemd" / f"ovirt-ha-{name}.service").read_text()
        assert "User=vdsm\n" in text
        assert re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.M) == [capability]


def test_w30_no_link_is_made_anywhere():
    for name, source in modules().items():
        assert not {called for called, _ in calls(source)} & {"os.symlink", "os.link", "path.symlink_to"}, name


@pytest.fixture
def host(monkeypatch):
    made = Host()
    monkeypatch.setenv("OVIRT_HE_ROOT", str(made.root))
    yield made
    made.close()


SECRET = "correct horse battery staple"


def test_w65_a_password_is_in_no_text_about_the_configuration(host):
    host.configure(password=SECRET)
    conf = load_hosted_engine_conf(host.paths.hosted_engine_conf)
    assert conf.password == SECRET
    assert SECRET not in repr(conf)
    host.configure(password=SECRET, vmid="no uuid")
    with pytest.raises(ConfigError) as caught:
        load_hosted_engine_conf(host.paths.hosted_engine_conf)
    assert SECRET not in str(caught.value)
    host.paths.broker_conf.write_text(f"[email]\nsmtp-password={SECRET}\nsmtp-port=many\n")
    with pytest.raises(ConfigError) as caught:
        load_broker_conf(host.paths.broker_conf)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(BrokerConf(smtp_password=SECRET))


@pytest.mark.parametrize("mode", [0o640, 0o440, 0o600])
def test_w65_a_change_opens_the_file_for_nobody(host, mode):
    path = host.paths.hosted_engine_conf
    path.chmod(mode)
    HAClient(log=True, paths=host.paths).set_shared_config("gateway", "192.0.2.9", "he_local")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert "gateway=192.0.2.9\n" in path.read_text()


@pytest.mark.parametrize("verb", ["--check-deployed", "--vm-status", "--set-maintenance"])
def test_w70_the_configuration_is_read_and_never_run(host, verb):
    trace = host.root / "ran"
    host.configure(console=f"$(touch {trace})", user=f"`touch {trace}`")
    with host.paths.hosted_engine_conf.open("a") as file:
        file.write(f"touch {trace}\n; touch {trace}\n")
    host.publish(host_record(1))
    host.start_broker()
    arguments = [verb, "--mode=none"] if verb == "--set-maintenance" else [verb]
    assert hosted_engine(*arguments).status == 0
    assert not os.path.exists(trace)


# --- W-69 -------------------------------------------------------------------------------------------------------------


def test_w69_a_callers_words_replace_no_address(tmp_path):
    desk = Desk(tmp_path)
    desk.notifier.start()
    taken = {"source-email": "evil@example.com", "destination-emails": "evil@example.com", "smtp-server": "evil"}
    assert desk.notify(**taken, hostname="h\nBcc: evil@example.com") == "sent"
    message = desk.mail()
    desk.notifier.stop(2.0)
    assert "evil" not in f"{message['From']}{message['To']}{desk.mails[0].receivers}{desk.mails[0].conf.smtp_server}"
    assert message["Bcc"] is None


class PlainServer(socketserver.StreamRequestHandler):
    """A mail server that cannot encrypt, and notes what it is asked."""

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            word = line.split()[0].upper().decode()
            self.server.asked.append(word)
            answers = {"EHLO": b"250-here\r\n250 AUTH PLAIN LOGIN\r\n", "QUIT": b"221 bye\r\n"}
            self.wfile.write(answers.get(word, b"454 not now\r\n"))


def test_w69_without_the_encryption_that_is_asked_for_no_password_and_no_mail_leaves_the_host(capfd):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), PlainServer) as server:
        server.daemon_threads = True
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        port = server.server_address[1]
        conf = BrokerConf("127.0.0.1", port, 5, smtp_starttls=True, smtp_user="he", smtp_password=SECRET)
        with pytest.raises((OSError, smtplib.SMTPException)):
            notify.deliver(Mail(conf, "a@example.com", ("b@example.com",), b"Subject: x\n\n"))
        server.shutdown()
    assert set(server.asked) <= {"EHLO", "STARTTLS", "QUIT"}
    assert capfd.readouterr() == ("", "")
