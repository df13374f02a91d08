"""Rules, templates, addresses, and a queue that waits for nobody."""

import email
import smtplib
import socketserver
import threading
import time
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.broker import notify
from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.notify import IGNORED, SENT, Mail, MailNotifier, deliver, filled, message_bytes
from ovirt_he_ha.config.files import BrokerConf
from ovirt_he_ha.config.text import ConfigError

TEMPLATE = (
    "From: {source-email}\nTo: {destination-emails}\nSubject: state: {detail}\n\n"
    "{hostname} is now {detail} ({smtp-server}:{smtp-port}, {smtp-timeout} s)"
)


class Desk:
    def __init__(self, tmp_path, conf=None, deliver=None, retries=(0.0, 0.0)):
        self.conf = conf or BrokerConf(
            source_email="he@example.com", destination_emails=("a@example.com", "b@example.com")
        )
        self.mails = []
        self.arrived = threading.Event()
        self.metrics = Metrics()
        (tmp_path / "state_transition.txt").write_text(TEMPLATE)
        self.directory = tmp_path
        self.notifier = MailNotifier(self.load, tmp_path, deliver or self.deliver, self.metrics, retries)

    def load(self):
        return self.conf

    def deliver(self, mail):
        self.mails.append(mail)
        self.arrived.set()

    def notify(self, detail="EngineDown-EngineStart", event="state_transition", **options):
        return self.notifier.notify(event, detail, {"hostname": "host1", **options})

    def mail(self):
        assert self.arrived.wait(5)
        return email.message_from_bytes(self.mails[0].data)


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    made.notifier.start()
    yield made
    made.notifier.stop(2.0)


def test_an_address_that_no_mail_can_carry_costs_its_mail_and_not_the_thread(tmp_path):
    tried = []

    def talk(mail):
        tried.append(mail.receivers)
        for receiver in mail.receivers:
            receiver.encode("ascii")  # as smtplib does, without a server that takes other characters

    desk = Desk(tmp_path, BrokerConf(source_email="he@example.com", destination_emails=("jürgen@example.com",)), talk)
    desk.notifier.start()
    try:
        assert desk.notify() == SENT
        desk.conf = BrokerConf(source_email="he@example.com", destination_emails=("a@example.com",))
        assert desk.notify() == SENT
        until = time.monotonic() + 5
        while desk.metrics.counts().get("notify.delivered", 0) < 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert tried == [("jürgen@example.com",), ("a@example.com",)]
        assert (desk.metrics.counts()["notify.delivered"], desk.metrics.counts()["notify.failed"]) == (1, 1)
    finally:
        desk.notifier.stop(2.0)


def test_a_transition_is_mailed(desk):
    assert desk.notify() == SENT
    message = desk.mail()
    assert (message["From"], message["To"]) == ("he@example.com", "a@example.com,b@example.com")
    assert message["Subject"] == "state: EngineDown-EngineStart"
    assert message["Date"]
    assert message.get_payload() == "host1 is now EngineDown-EngineStart (localhost:25, 10 s)"
    assert desk.mails[0].receivers == ("a@example.com", "b@example.com")
    assert desk.mails[0].sender == "he@example.com"


@pytest.mark.parametrize(
    ("detail", "event"),
    [("EngineMaybeAway-Reinit", "state_transition"), ("EngineUp", "other_event"), ("EngineUp", "../etc/passwd")],
)
def test_rules_decide(desk, detail, event):
    assert desk.notify(detail, event) == IGNORED


def test_rules_are_case_insensitive(desk):
    assert desk.notify("x-ENGINEUP") == SENT


def test_an_event_with_a_path_in_it_finds_no_template(tmp_path):
    desk = Desk(tmp_path, BrokerConf(notify=MappingProxyType({"../state_transition": "."})))
    assert desk.notify(event="../state_transition") == IGNORED


def test_callers_fill_words_not_addresses(desk):
    options = {"destination-emails": "evil@example.com", "source-email": "evil@example.com", "detail": "forged"}
    assert desk.notifier.notify("state_transition", "A-EngineUp", {"hostname": "h", **options}) == SENT
    message = desk.mail()
    assert message["To"] == "a@example.com,b@example.com"
    assert message["Subject"] == "state: A-EngineUp"


def test_a_line_break_starts_no_header(desk):
    assert desk.notify("EngineUp\r\nBcc: evil@example.com\n\nbody") == SENT
    message = desk.mail()
    assert "Bcc" not in message
    assert desk.mails[0].receivers == ("a@example.com", "b@example.com")


@pytest.mark.parametrize(
    "template", ["{unknown}", "{detail!r}", "{detail:>9999999}", "{detail.__class__}", "{", "{0}", "{}"]
)
def test_templates_that_are_ignored(desk, template):
    (desk.directory / "state_transition.txt").write_text(template)
    assert desk.notify() == IGNORED


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * 70000])
def test_template_files_that_are_ignored(desk, content):
    path = desk.directory / "state_transition.txt"
    path.unlink() if content is None else path.write_bytes(content)
    assert desk.notify() == IGNORED


def test_an_unreadable_configuration_is_no_mail(tmp_path):
    desk = Desk(tmp_path)

    def fail():
        raise ConfigError("/broker.conf", "", "a readable file", "nothing")

    desk.load = fail
    desk.notifier._load = fail
    assert desk.notify() == IGNORED


def test_a_full_queue_drops_and_says_so(tmp_path):
    desk = Desk(tmp_path)  # nobody takes mails out
    answers = [desk.notify() for _ in range(70)]
    assert answers.count(SENT) == 64
    assert desk.metrics.get("notify.dropped") == 6


def test_a_server_that_fails_is_tried_again(tmp_path):
    tries = []
    done = threading.Event()

    def deliver(_mail):
        tries.append(1)
        if len(tries) < 3:
            raise smtplib.SMTPServerDisconnected("gone")
        done.set()

    desk = Desk(tmp_path, deliver=deliver)
    desk.notifier.start()
    desk.notify()
    assert done.wait(5)
    desk.notifier.stop(2.0)
    assert desk.metrics.get("notify.delivered") == 1


def test_stop_does_not_wait_for_a_hanging_server(tmp_path):
    hang, entered = threading.Event(), threading.Event()

    def deliver(_mail):
        entered.set()
        hang.wait(10)

    desk = Desk(tmp_path, deliver=deliver)
    desk.notifier.start()
    desk.notify()
    assert entered.wait(5)
    desk.notifier.stop(0.1)
    hang.set()


class _Smtp(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 test\r\n")
        for line in self.rfile:
            self.server.lines.append(line)
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go\r\n")
                while True:
                    data = self.rfile.readline()
                    self.server.lines.append(data)
                    if data == b".\r\n":
                        break
            self.wfile.write(b"250 ok\r\n")
            if line.upper().startswith(b"QUIT"):
                self.server.done.set()
                return


def test_the_dialogue_with_a_mail_server(tmp_path):
    with socketserver.TCPServer(("127.0.0.1", 0), _Smtp) as server:
        server.lines, server.done = [], threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        conf = BrokerConf(
            smtp_server="127.0.0.1",
            smtp_port=server.server_address[1],
            source_email="he@example.com",
            destination_emails=("a@example.com",),
        )
        (tmp_path / "state_transition.txt").write_text(TEMPLATE)
        notifier = MailNotifier(lambda: conf, tmp_path)
        notifier.start()
        assert notifier.notify("state_transition", "EngineUp", {"hostname": "h"}) == SENT
        assert server.done.wait(10)
        notifier.stop(2.0)
        server.shutdown()
    text = b"".join(server.lines).lower()
    assert b"mail from:<he@example.com>" in text
    assert b"rcpt to:<a@example.com>" in text
    assert b"subject: state: engineup" in text


@given(st.text(max_size=80), st.dictionaries(st.text(max_size=5), st.text(max_size=10), max_size=3))
def test_any_template_is_filled_or_ignored(template, words):
    result = filled(template, words)
    assert result is None or isinstance(message_bytes(result), bytes)


class Server:
    """Notes what a dialogue does; stands in for the real one."""

    def __init__(self, *arguments, timeout):
        self.did = [(*arguments, timeout)]
        Server.last = self

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        return None

    def starttls(self, context):
        self.did.append(("starttls", context.check_hostname))

    def login(self, user, password):
        self.did.append(("login", user, password))

    def sendmail(self, *_mail):
        self.did.append(("sendmail",))


def test_encryption_and_login_come_before_the_mail(monkeypatch):
    monkeypatch.setattr(notify, "Dialogue", Server)
    conf = BrokerConf(smtp_starttls=True, smtp_user="he", smtp_password="secret")
    deliver(Mail(conf, "a", ("b",), b""))
    assert Server.last.did == [("localhost", 25, 10), ("starttls", True), ("login", "he", "secret"), ("sendmail",)]
    deliver(Mail(BrokerConf(), "a", ("b",), b""))
    assert Server.last.did == [("localhost", 25, 10), ("sendmail",)]
