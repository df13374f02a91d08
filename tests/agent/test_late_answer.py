import threading
from typing import List

from ovirt_he_ha.agent.late_answer import LateAnswer


def test_s4_a_question_that_hangs_does_not_delay_who_asks() -> None:
    release = threading.Event()
    asked: List[threading.Thread] = []

    def ask() -> str:
        asked.append(threading.current_thread())
        assert release.wait(10)
        return "digest"

    answer = LateAnswer(ask)
    assert answer() == ""
    assert answer() == ""
    release.set()
    asked[0].join(10)
    assert answer() == "digest"
    assert len(asked) == 1


def test_it_is_asked_until_there_is_an_answer() -> None:
    replies = ["", "digest"]
    asked: List[threading.Thread] = []

    def ask() -> str:
        asked.append(threading.current_thread())
        return replies[len(asked) - 1]

    answer = LateAnswer(ask)
    for round_ in (1, 2):
        answer()
        while len(asked) < round_:
            pass
        asked[-1].join(10)
    assert answer() == "digest"
    assert len(asked) == 2
