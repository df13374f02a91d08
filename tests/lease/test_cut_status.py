"""An answer of sanlock that ends too early, or never: nothing is known then, and nobody is killed for it."""

import contextlib
import socket
import threading

import pytest

from ovirt_he_ha.lease.daemon_status import NoStatus, ask, parse
from tests.lease.test_daemon_status import WHOLE
from tests.own_time import OwnTime

HEADER = 32


@pytest.mark.parametrize("missing", [1041, 1100, 1168 + 81])
def test_s11_an_answer_cut_inside_a_record_is_no_answer(missing):
    """A copy that is missing from a cut list is not a copy that sanlock does not know."""
    with pytest.raises(NoStatus) as caught:
        parse(WHOLE[:-missing], "/sock")
    assert caught.value.kind == "overdue"


def test_s4_a_daemon_that_never_ends_its_answer_costs_the_deadline(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)
    enough = threading.Event()

    def pour():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(WHOLE)
            while not enough.is_set():
                connection.sendall(WHOLE[HEADER:])

    threading.Thread(target=pour, daemon=True).start()
    threading.Timer(1.5, enough.set).start()
    took = OwnTime()
    try:
        with pytest.raises(NoStatus) as caught:
            ask(str(tmp_path / "s"), 0.2)
    finally:
        enough.set()
        listener.close()
    assert caught.value.kind == "overdue"
    assert took.seconds < 1.2
