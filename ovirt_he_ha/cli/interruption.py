"""Ctrl-C: one line or one JSON object and exit status 130, from the program's first import to its last line.

Until the verb runs nothing is begun and nothing open: the program leaves where it stands. An exception would do worse
there. In an import it is a traceback, and where Python lets go of a module's lock it is printed and forgotten. While
the verb runs it is an exception, so that what was begun is ended in order. Once the answer is given it is what it is
to every program: the shell says 130.

Imports next to nothing: whatever comes before it is not heard. ``signal`` itself would be 2 ms of enumerations.
"""

import _signal  # type: ignore[import-not-found]  # what the module signal wraps in enumerations
import os
import sys

EXIT_INTERRUPTED = 130
_OPTIONS_END = "--"

_heard = False  # this process is the program itself, and was not started deaf to Ctrl-C, as shells do in the background


def wants_json(words: "list[str]") -> bool:
    """Whoever reads a stream parses each of its lines, also the only one."""
    options = words[: words.index(_OPTIONS_END)] if _OPTIONS_END in words else words
    return any(word.partition("=")[0] in ("--json", "--stream") for word in options)


def answer(words: "list[str]") -> str:
    if wants_json(words):
        return '{"error": {"code": "interrupted", "message": "interrupted"}}\n'
    return "\ninterrupted\n"


def at_once() -> None:
    """From now on Ctrl-C ends the process where it stands. For the program, in its first line."""
    global _heard
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _leave)
        _heard = True


def as_exception() -> None:
    """The verb runs now: KeyboardInterrupt."""
    if _heard:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def as_everywhere() -> None:
    """The answer is given: a second one would spoil it."""
    if _heard:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def _leave(_number: int, _frame: object) -> None:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # the next one is heard also where the line cannot be written
    words = sys.argv[1:]
    try:
        os.write(1 if wants_json(words) else 2, answer(words).encode())
    except OSError:
        os._exit(EXIT_INTERRUPTED)  # nobody is there to be told
    os._exit(EXIT_INTERRUPTED)
