"""Mail on events: a rule says which, a template says what, a thread of its own delivers.

``notify`` decides and queues; it never talks to a mail server. The settings decide who sends to whom: what a caller
passes along fills the template's words, not the addresses.
"""

import email.message
import logging
import queue
import re
import smtplib
import ssl
import string
import threading
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Tuple

from ovirt_he_ha.broker.metrics import Metrics
from ovirt_he_ha.broker.smtp import Dialogue
from ovirt_he_ha.config.files import BrokerConf, ConfigError
from ovirt_he_ha.config.journal import throttled

log = logging.getLogger(__name__)

SENT = "sent"  # the field's word: the mail will be delivered, as far as we know
IGNORED = "ignored"

_EVENT = re.compile(r"[A-Za-z0-9_]{1,64}")
_TEMPLATE_LIMIT = 1 << 16
_DETAIL_LIMIT = 1024  # characters that a rule is matched against: a rule with nested repeats stays bounded by it
_QUEUE = 64  # mails waiting for a server that does not answer; older news matter more than a flood's end
_RETRIES = (10.0, 60.0)  # wall seconds before the second and the third try


@dataclass(frozen=True)
class Mail:
    conf: BrokerConf
    sender: str
    receivers: Tuple[str, ...]
    data: bytes


Deliver = Callable[[Mail], None]


def deliver(mail: Mail) -> None:
    """One SMTP dialogue. Raises OSError or smtplib.SMTPException; ValueError for words that no mail can carry."""
    conf = mail.conf
    with Dialogue(conf.smtp_server, conf.smtp_port, timeout=conf.smtp_timeout) as server:
        if conf.smtp_starttls:
            server.starttls(context=ssl.create_default_context())
        if conf.smtp_user:
            server.login(conf.smtp_user, conf.smtp_password)
        server.sendmail(mail.sender, list(mail.receivers), mail.data)


class MailNotifier:
    """``load`` reads the settings anew for each event; ``templates`` is the directory of ``<event>.txt``."""

    def __init__(
        self,
        load: Callable[[], BrokerConf],
        templates: Path,
        deliver: Deliver = deliver,
        metrics: Optional[Metrics] = None,
        retries: Tuple[float, ...] = _RETRIES,
    ) -> None:
        self._load = load
        self._templates = templates
        self._deliver = deliver
        self._metrics = metrics or Metrics()
        self._retries = retries
        self._queue: queue.Queue[Optional[Mail]] = queue.Queue(_QUEUE)
        self._stopping = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="mail", daemon=True)
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Give up what is queued; a dialogue that hangs is left behind."""
        self._stopping.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            log.warning("%d mails are not delivered: the broker stops", self._queue.qsize())
        if self._thread is not None:
            self._thread.join(deadline)

    def notify(self, event: str, detail: str, options: Mapping[str, str]) -> str:
        """``sent`` if a mail was queued, ``ignored`` if rule or template say so, or the queue is full."""
        mail = self._mail(event, detail, options)
        if mail is None:
            self._metrics.add("notify.ignored")
            return IGNORED
        try:
            self._queue.put_nowait(mail)
        except queue.Full:
            log.error("mail on %s dropped: %d are waiting already", event, _QUEUE, extra=throttled("mail-queue"))
            self._metrics.add("notify.dropped")
            return IGNORED
        self._metrics.add("notify.queued")
        return SENT

    def _mail(self, event: str, detail: str, options: Mapping[str, str]) -> Optional[Mail]:
        try:
            conf = self._load()
        except ConfigError as error:
            log.error("no mail on %s: %s", event, error, extra=throttled("mail-conf"))
            return None
        rule = conf.notify.get(event)
        if rule is None or not _EVENT.fullmatch(event):
            return None
        if not re.search(rule, detail[:_DETAIL_LIMIT], re.IGNORECASE):
            return None
        template = self._template(event)
        text = None if template is None else filled(template, _words(conf, detail, options))
        if text is None:
            return None
        return Mail(conf, conf.source_email, conf.destination_emails, message_bytes(text))

    def _template(self, event: str) -> Optional[str]:
        path = self._templates / f"{event}.txt"
        try:
            with open(path, "rb") as file:
                data = file.read(_TEMPLATE_LIMIT + 1)
            if len(data) <= _TEMPLATE_LIMIT:
                return data.decode("utf-8")
            problem = f"larger than {_TEMPLATE_LIMIT} bytes"
        except (OSError, UnicodeDecodeError) as error:
            problem = str(error)
        log.warning("no mail on %s: template %s: %s", event, path, problem, extra=throttled("mail-template"))
        return None

    def _work(self) -> None:
        while not self._stopping.is_set():
            mail = self._queue.get()
            if mail is None:
                return
            self._try(mail)

    def _try(self, mail: Mail) -> None:
        for wait in (*self._retries, None):
            try:
                self._deliver(mail)
                self._metrics.add("notify.delivered")
                return
            except ValueError as error:
                # Of the settings, an address that no mail can carry for one: it would fail again.
                log.error("mail to %s: %s", ", ".join(mail.receivers), error, extra=throttled("mail"))
                break
            except (OSError, smtplib.SMTPException) as error:
                log.error(
                    "mail through %s:%d failed: %s",
                    mail.conf.smtp_server,
                    mail.conf.smtp_port,
                    error,
                    extra=throttled("mail"),
                )
            if wait is None or self._stopping.wait(wait):
                break
        self._metrics.add("notify.failed")


def _words(conf: BrokerConf, detail: str, options: Mapping[str, str]) -> Dict[str, str]:
    """Every field that a template may name. The settings come last: a caller's option cannot replace an address."""
    words = {key: str(value) for key, value in options.items()}
    words["detail"] = detail
    words["source-email"] = conf.source_email
    words["destination-emails"] = ",".join(conf.destination_emails)
    words["smtp-server"] = conf.smtp_server
    words["smtp-port"] = str(conf.smtp_port)
    words["smtp-timeout"] = str(conf.smtp_timeout)
    return {key: _one_line(value) for key, value in words.items()}


def _one_line(text: str) -> str:
    """A line break in a word would start a header of the caller's choice."""
    return "".join(char if char.isprintable() else " " for char in text[:_DETAIL_LIMIT])


def filled(template: str, words: Mapping[str, str]) -> Optional[str]:
    """The template with its ``{fields}`` replaced; None if it is malformed, formats, or names a field that there is
    not."""
    parts = []
    try:
        for literal, name, form, conversion in string.Formatter().parse(template):
            parts.append(literal)
            if name is None:
                continue
            if form or conversion or name not in words:
                log.warning("template field {%s}: unknown, or with a format", name, extra=throttled("mail-field"))
                return None
            parts.append(words[name])
    except ValueError as error:
        log.warning("template is malformed: %s", error, extra=throttled("mail-field"))
        return None
    return "".join(parts)


def message_bytes(text: str) -> bytes:
    """The RFC 822 message of a filled template, dated now in local time."""
    message: email.message.Message = email.message_from_bytes(text.encode("utf-8"))
    del message["Date"]
    message["Date"] = formatdate(localtime=True)
    if not text.isascii() and "Content-Type" not in message:
        message["MIME-Version"] = "1.0"
        message["Content-Type"] = "text/plain; charset=utf-8"
        message["Content-Transfer-Encoding"] = "8bit"
    return message.as_bytes()
