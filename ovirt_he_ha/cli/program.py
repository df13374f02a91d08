"""One command: finds the verb, imports its module, turns every failure into one line and an exit status."""

import importlib
import io
import json
import os
import sys
from typing import List

from ovirt_he_ha.cli import interruption
from ovirt_he_ha.cli.interruption import wants_json
from ovirt_he_ha.cli.request import Unknown, parse, plain, verb_of, warn
from ovirt_he_ha.cli.verbs import VERBS, help_of, usage

EXIT_FAILED = 1


def run(words: List[str]) -> int:
    """The exit status, after everything has been said."""
    _open_what_is_closed()
    _write_what_cannot_be_encoded()
    try:
        status = _run(words)
        interruption.as_everywhere()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has gone (a pager, head). Nothing is left to say, and nowhere to say it.
        _drop_output()
        return EXIT_FAILED
    except OSError as error:  # standard output itself: everything else is answered in _run
        _drop_output()
        sys.stderr.write(f"standard output cannot be written: {error.strerror or error}\n")
        return EXIT_FAILED
    except KeyboardInterrupt:
        interruption.as_everywhere()
        _say_interrupted(words)
        return interruption.EXIT_INTERRUPTED


def _say_interrupted(words: List[str]) -> None:
    try:
        (sys.stdout if wants_json(words) else sys.stderr).write(interruption.answer(words))
        sys.stdout.flush()
    except OSError:
        _drop_output()  # a pager that got the same Ctrl-C


def _open_what_is_closed() -> None:
    """Whoever started us may have closed one of the three: the next file that is opened, a volume perhaps, would take
    its place."""
    if sys.stdin is not None and sys.stdout is not None and sys.stderr is not None:
        return
    while True:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle > 2:
            os.close(handle)
            break
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - until the program ends


def _write_what_cannot_be_encoded() -> None:
    """A host's name may have letters that this terminal's encoding has not: they are shown as escapes, and the rest
    as it is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What is left in the buffer would fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(words: List[str]) -> int:
    if not words:
        sys.stdout.write(usage())
        return EXIT_FAILED
    options = _options_of(words)
    try:
        if "--help" in options:
            return _help([word for word in options if word not in ("--help", "--json")])
        request = parse(words)
        verb = VERBS[request.verb]
        module = importlib.import_module(f"ovirt_he_ha.cli.{verb.module}")
        interruption.as_exception()
        return int(getattr(module, verb.function)(request))
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        return _failed(error, wants_json(words))


def _options_of(words: List[str]) -> List[str]:
    return words[: words.index("--")] if "--" in words else words


def _help(rest: List[str]) -> int:
    names = [word.partition("=")[0] for word in rest]
    known = [name for name in names if name in VERBS]
    sys.stdout.write(help_of(known[0] if known else verb_of(names)) if names else usage())
    return 0


def _failed(error: Exception, as_json: bool) -> int:
    from ovirt_he_ha.cli.failure import explain

    refusal = explain(error)
    if as_json:
        # Whoever asked for JSON parses standard output, whatever happened.
        sys.stdout.write(_error_json(refusal.code, str(refusal)))
        return refusal.status
    if refusal.to_stdout:
        sys.stdout.write(plain(f"{refusal}\n"))
    else:
        warn(str(refusal))
    if isinstance(refusal, Unknown):  # not in JSON mode: one object, and nothing else
        sys.stdout.write(usage())
    return refusal.status


def _error_json(code: str, message: str) -> str:
    return json.dumps({"error": {"code": code, "message": message}}) + "\n"
