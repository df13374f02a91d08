"""What was asked on the command line, and why it may be refused."""

import sys
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.cli.verbs import FLAG, GONE, VERBS


class Refusal(Exception):
    """A verb that is not carried out. ``code`` is for programs, the text for people; it goes to standard error, or to
    standard output where scripts look for it there. ``status`` is the exit status, never 0."""

    def __init__(self, code: str, message: str, status: int = 1, to_stdout: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.to_stdout = to_stdout


class Unknown(Refusal):
    """No verb that we know: the usage follows."""


@dataclass(frozen=True)
class Request:
    """``options`` holds what was given: a FLAG maps to ``""``. ``words``: those without dashes."""

    verb: str
    options: Mapping[str, str] = field(default_factory=dict)
    words: Tuple[str, ...] = ()

    def has(self, option: str) -> bool:
        return option in self.options

    def value(self, option: str) -> Optional[str]:
        return self.options.get(option)

    def number(self, option: str, low: int, high: int) -> Optional[int]:
        """The value as a whole number. Raises Refusal outside ``low``..``high``."""
        text = self.options.get(option)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
            raise Refusal("usage", f"{option}: expected a number from {low} to {high}, found {text[:40]!r}")
        return int(text)

    @property
    def json(self) -> bool:
        return self.has("--json")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def warn(text: str) -> None:
    sys.stderr.write(text + "\n")


def parse(argv: List[str]) -> Request:
    """One verb and its options, in any order. Raises Unknown if there is no verb, Refusal for anything that does not
    fit."""
    words = [_split(word) for word in argv]
    verb = _verb([name for name, _ in words])
    known = VERBS[verb].options
    options: Dict[str, str] = {}
    plain: Tuple[str, ...] = ()
    if VERBS[verb].words:
        plain = tuple(word for word in argv if not word.startswith("--"))
        argv = [word for word in argv if word.startswith("--")]
        words = [_split(word) for word in argv]
    position = 0
    while position < len(words):
        name, value = words[position]
        position += 1
        if name == verb:
            _no_value(name, value)
            continue
        if name not in known:
            raise Refusal("usage", _not_understood(verb, argv[position - 1]))
        if name in options:
            raise Refusal("usage", f"{name} is given twice")
        if known[name] == FLAG:
            _no_value(name, value)
        elif value is None:
            if position == len(words) or argv[position].startswith("--"):
                raise Refusal("usage", f"{name}: expected {name}={known[name]}, found no value")
            value = argv[position]
            position += 1
        options[name] = value or ""
    return Request(verb, options, plain)


def _split(word: str) -> Tuple[str, Optional[str]]:
    name, equals, value = word.partition("=")
    return name, value if equals else None


def _no_value(name: str, value: Optional[str]) -> None:
    if value is not None:
        raise Refusal("usage", f"{name} takes no value, found {value[:40]!r}")


def _verb(names: List[str]) -> str:
    found = [name for name in names if name in VERBS]
    for name in names:
        if name in GONE:
            raise Refusal("not-offered", f"{name}: {GONE[name]}")
    if not found:
        raise Unknown("usage", f"{names[0][:80] if names else ''}: no such command")
    if len(found) > 1:
        raise Refusal("usage", f"one command at a time: {' and '.join(found)} exclude each other")
    return found[0]


def _not_understood(verb: str, word: str) -> str:
    options = VERBS[verb].options
    has = "has the options " + ", ".join(options) if options else "has no options"
    return f"{word[:80]}: not understood. {verb} {has}"
