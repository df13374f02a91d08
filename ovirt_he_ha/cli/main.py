"""hosted-engine: finds the verb, imports its module, turns every failure into one line and an exit status."""

import importlib
import json
import os
import sys
from typing import List, Optional

from ovirt_he_ha.cli.request import Unknown, parse
from ovirt_he_ha.cli.verbs import VERBS, help_of, usage

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: Optional[List[str]] = None) -> int:
    """Exit status: 0 done, 1 refused or failed, and what ``--help`` of a verb says beyond that."""
    words = sys.argv[1:] if argv is None else argv
    try:
        status = _run(words)
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
        sys.stderr.write("\ninterrupted\n")
        return EXIT_INTERRUPTED


def _drop_output() -> None:
    """What is left in the buffer would fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(words: List[str]) -> int:
    if not words:
        sys.stdout.write(usage())
        return EXIT_FAILED
    options = words[: words.index("--")] if "--" in words else words
    if "--help" in options:
        return _help([word for word in options if word != "--help"])
    as_json = any(word.partition("=")[0] == "--json" for word in options)
    try:
        request = parse(words)
        verb = VERBS[request.verb]
        module = importlib.import_module(f"ovirt_he_ha.cli.{verb.module}")
        return int(getattr(module, verb.function)(request))
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        return _failed(error, as_json)


def _help(rest: List[str]) -> int:
    names = [word.partition("=")[0] for word in rest]
    known = [name for name in names if name in VERBS]
    if known:
        sys.stdout.write(help_of(known[0]))
        return 0
    if rest:
        sys.stderr.write(f"{rest[0][:80]}: no such command\n")
    sys.stdout.write(usage())
    return EXIT_FAILED if rest else 0


def _failed(error: Exception, as_json: bool) -> int:
    from ovirt_he_ha.cli.failure import explain

    refusal = explain(error)
    if as_json:
        # Whoever asked for JSON parses standard output, whatever happened.
        sys.stdout.write(json.dumps({"error": {"code": refusal.code, "message": str(refusal)}}) + "\n")
        return refusal.status
    stream = sys.stdout if refusal.to_stdout else sys.stderr
    stream.write(f"{refusal}\n")
    if isinstance(refusal, Unknown):  # not in JSON mode: one object, and nothing else
        sys.stdout.write(usage())
    return refusal.status


if __name__ == "__main__":
    sys.exit(main())
