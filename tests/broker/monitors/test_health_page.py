import contextlib
import errno
import http.client
import socket
import ssl
import subprocess
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.broker.monitors import target
from ovirt_he_ha.broker.monitors.frame import Unmeasured
from ovirt_he_ha.broker.monitors.health_page import HealthPage, checked_url
from ovirt_he_ha.broker.monitors.options import OptionError
from ovirt_he_ha.core.model import Health
from tests.own_time import OwnTime

PATH = "/ovirt-engine/services/health"
GOOD_BODY = b"DB Up!Welcome to Health Status!\n"


def page_of(body, status=b"200 OK", headers=b""):
    return b"HTTP/1.1 " + status + b"\r\n" + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Sites:
    """Web servers on 127.0.0.1, one per :meth:`start`."""

    def __init__(self):
        self.over = threading.Event()
        self.servers, self.threads = [], []

    def start(self, answer, requests=None, tls=None):
        """Returns the port. ``answer``: pieces to send; a number is a pause, None holds the connection open until the
        test ends. ``requests`` collects what was asked."""
        server = socket.create_server(("127.0.0.1", 0))
        self.servers.append(server)
        self._thread(self._accept, server, answer, [] if requests is None else requests, tls)
        return server.getsockname()[1]

    def close(self):
        self.over.set()
        for server in self.servers:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
        for thread in self.threads:
            thread.join(5)

    def _thread(self, target, *args):
        self.threads.append(threading.Thread(target=target, args=args, daemon=True))
        self.threads[-1].start()

    def _accept(self, server, *told):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            self._thread(self._talk, connection, *told)

    def _talk(self, connection, answer, requests, tls):
        with contextlib.suppress(OSError), connection:
            if tls is None:
                return self._send(connection, answer, requests)
            with tls.wrap_socket(connection, server_side=True) as secure:
                return self._send(secure, answer, requests)

    def _send(self, connection, answer, requests):
        requests.append(connection.recv(65536))
        for piece in answer:
            if isinstance(piece, bytes):
                connection.sendall(piece)
            else:
                self.over.wait(60 if piece is None else piece)


@pytest.fixture
def serve():
    sites = Sites()
    yield sites.start
    sites.close()


def fetch(port, timeout=5.0, scheme="http", **how):
    return HealthPage(f"{scheme}://127.0.0.1:{port}{PATH}", timeout, **how).fetch()


def test_a_healthy_engine(serve):
    requests = []
    port = serve([page_of(GOOD_BODY)], requests)
    assert fetch(port).health is Health.GOOD
    lines = requests[0].decode().split("\r\n")
    assert lines[0] == f"GET {PATH} HTTP/1.1"
    assert f"Host: 127.0.0.1:{port}" in lines


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.0 200 OK\r\n\r\n" + GOOD_BODY],
        [b"HTTP/1.1 200 OK\r\n\r\nDB Up"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nDB \r\n", b"3\r\nUp!\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n\r\nDB ", 0.05, b"Up!\n", None],
        [b"HTTP/1.1 200 OK\r\n\r\nDB Up\n" + b"x" * 10_000_000],
    ],
    ids=["1.0", "no line end", "chunked", "kept open after the line", "endless"],
)
def test_healthy_in_other_shapes(serve, answer):
    assert fetch(serve(answer)).health is Health.GOOD


@pytest.mark.parametrize(
    "answer",
    [
        [page_of(b"DB Down!\n")],
        [page_of(b"first line\nDB Up\n")],
        [page_of(b"")],
        [page_of(GOOD_BODY, b"500 Internal Server Error")],
        [page_of(GOOD_BODY, b"302 Found", b"Location: https://elsewhere/\r\n")],
        [page_of(b"x" * 5000 + b"DB Up")],
        [b"nonsense\r\n\r\n"],
        [b"HTTP/1.1 999999 No\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\nDB"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nDB Up\r\n"],
        [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n" + GOOD_BODY],
        [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000],
        [],
    ],
)
def test_everything_else_that_answers_is_bad(serve, answer):
    result = fetch(serve(answer))
    assert result.health is Health.BAD
    assert result.why
    assert result.why.isascii()


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=4))
def test_any_bytes_of_a_server_are_good_or_bad(pieces):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for piece in pieces:
            theirs.sendall(piece)
        theirs.shutdown(socket.SHUT_WR)
        page = HealthPage("http://engine.example/", 5.0)
        try:
            health = page._request(ours, time.monotonic() + 5.0).health
        except (OSError, http.client.HTTPException):
            return  # what fetch() turns into BAD
        assert health in (Health.GOOD, Health.BAD)


@pytest.mark.parametrize(
    "answer",
    [
        [None],
        [b"HTTP/1.1 200 OK\r\n", None],
        [b"HTTP/1.1 200 OK\r\n\r\nDB ", None],
        [x for _ in range(200) for x in (b"H", 0.05)],
    ],
    ids=["no answer", "headers only", "half a line", "drip"],
)
def test_one_deadline_for_all_of_it(serve, answer):
    port = serve(answer)
    took = OwnTime()
    result = fetch(port, timeout=0.4)
    assert (result.health, result.why) == (Health.BAD, "timed out")
    assert took.wall >= 0.35 and took.seconds < 2.0


def test_no_one_listens():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert fetch(held.getsockname()[1]).health is Health.BAD


def test_the_second_address_of_a_name_is_tried_too(serve, monkeypatch):
    port = serve([page_of(GOOD_BODY)])
    addresses = [("127.0.0.2", port), ("127.0.0.1", port)]
    monkeypatch.setattr(target.socket, "getaddrinfo", lambda *a, **k: [(2, 1, 6, "", address) for address in addresses])
    assert HealthPage("http://engine.example/", 5.0).fetch().health is Health.GOOD


def test_a_name_that_cannot_be_resolved_says_nothing_of_the_engine(monkeypatch):
    def fail(*args, **how):
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(target.socket, "getaddrinfo", fail)
    with pytest.raises(Unmeasured) as problem:
        HealthPage("http://engine.example/", 5.0).fetch()
    assert problem.value.why == "no-address"


def test_a_host_without_a_route_says_nothing_of_the_engine(own_network):
    def ask():
        with pytest.raises(Unmeasured) as problem:
            HealthPage("http://192.0.2.1/", 5.0).fetch()
        return problem.value.why, problem.value.__cause__.errno

    assert own_network(ask) == ("no-route", errno.ENETUNREACH)


def test_abort_ends_a_hanging_fetch_at_once_and_forbids_the_next(serve):
    asked = []
    page = HealthPage(f"http://127.0.0.1:{serve([None], asked)}/", 60.0)
    ended = []

    def run():
        for _ in range(2):
            with pytest.raises(Unmeasured) as problem:
                page.fetch()
            ended.append(problem.value.why)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 10
    while not asked and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    page.abort()
    thread.join(10)
    assert ended == ["stopping", "stopping"]


# --- HTTPS --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    key, cert = directory / "key.pem", directory / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=engine"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    return tls, cert


def test_https_with_the_engines_authority(serve, certificate):
    tls, cert = certificate
    assert fetch(serve([page_of(GOOD_BODY)], tls=tls), scheme="https", ca_file=str(cert)).health is Health.GOOD


def test_https_of_somebody_else_is_not_believed(serve, certificate):
    tls, _ = certificate
    with pytest.raises(Unmeasured) as problem:
        fetch(serve([page_of(GOOD_BODY)], tls=tls), scheme="https")
    assert problem.value.why == "certificate"


def test_https_of_a_server_that_never_shakes_hands(serve, certificate):
    took = OwnTime()
    assert fetch(serve([None]), timeout=0.4, scheme="https", ca_file=str(certificate[1])).why == "timed out"
    assert took.seconds < 2.0


def test_abort_during_the_handshake(serve, certificate):
    asked = []
    page = HealthPage(f"https://127.0.0.1:{serve([None], asked)}/", 60.0, str(certificate[1]))
    ended = []

    def run():
        with pytest.raises(Unmeasured) as problem:
            page.fetch()
        ended.append(problem.value.why)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 10
    while not asked and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    page.abort()
    thread.join(10)
    assert ended == ["stopping"]


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "engine.example/health",
        "ftp://engine.example/",
        "http://",
        "http://h:x/",
        "http://h:99999/",
        "http://h/a b",
        "http://h/\n",
    ],
)
def test_a_useless_url_is_refused(url):
    with pytest.raises(OptionError) as problem:
        HealthPage(url, 5.0)
    assert problem.value.key == "[health] url"


@given(st.text())
def test_any_url_is_taken_or_refused(url):
    with contextlib.suppress(OptionError):
        assert checked_url(url).hostname
    with contextlib.suppress(OptionError):
        checked_url("http://" + url)


@pytest.mark.parametrize("text", [None, "", "no certificate\n"])
def test_a_useless_ca_file_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(OptionError) as problem:
        HealthPage("https://engine.example/", 5.0, str(tmp_path / "ca.pem"))
    assert problem.value.key == "[health] ca-file"
