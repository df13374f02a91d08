"""What was asked on the command line, and why it may be refused."""

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Tuple

from ovirt_he_ha.cli.verbs import FLAG, GONE, VERBS, is_optional

_END = "--"  # what follows is no option
_ANYWHERE = ("--json", "--help")  # options that many commands have


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
    """``options`` holds what was given: a FLAG maps to ``""``, and so does an optional value that was left out.
    ``words``: those without dashes."""

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

    def seconds(self, option: str, default: float, high: int = 86400) -> Optional[float]:
        """How long to wait: None if the option is not given, ``default`` if it has no value. Raises Refusal outside 1
        to ``high``."""
        if not self.options.get(option):
            return default if self.has(option) else None
        return float(self.number(option, 1, high) or 0)

    @property
    def json(self) -> bool:
        return self.has("--json")


def say(text: str) -> None:
    """``plain``. Raises Refusal where standard output is full, BrokenPipeError where nobody reads it any more."""
    say_painted(plain(text))


def say_painted(text: str) -> None:
    """As it is: for colours, around what ``plain`` has returned. Raises what ``say`` does."""
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refusal("output", f"standard output cannot be written: {error.strerror or error}") from error


def warn(text: str) -> None:
    """A remark. What was done is done, also where nobody can be told."""
    with suppress(OSError):
        sys.stderr.write(plain(text) + "\n")


def plain(text: str) -> str:
    """Lines for people that repeat what was typed, or what a file or a slot says, which anybody may have written: none
    of it may steer a terminal."""
    if text.isprintable():  # one look: the JSON of 250 hosts has 600,000 characters
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else "?" for each in text)


def quoted(word: str) -> str:
    """A word as it was typed, at most 80 characters of it; in quotes where it would not be seen, or break the line."""
    shown = word[:80]
    return shown if shown.isprintable() and shown.strip() else repr(shown)


def parse(argv: List[str]) -> Request:
    """One verb, its options and its words, in any order; after ``--`` everything is a word. Raises Unknown if there is
    no verb, Refusal for anything that does not fit."""
    verb = verb_of(_options_of(argv))
    if VERBS[verb].reads_itself:
        return _as_given(verb, argv)
    reader = _Reader(verb, argv)
    return Request(verb, reader.options, _checked(verb, reader.words))


def _as_given(verb: str, argv: List[str]) -> Request:
    for word in argv:
        name, value = _split(word)
        if name == verb:
            _no_value(name, value)
    return Request(verb, {"--json": ""} if "--json" in argv else {}, tuple(word for word in argv if word != verb))


def _options_of(argv: List[str]) -> List[str]:
    """The words before ``--``, each without its value."""
    words = argv[: argv.index(_END)] if _END in argv else argv
    return [_split(word)[0] for word in words]


class _Reader:
    """Reads the command line from left to right."""

    def __init__(self, verb: str, argv: List[str]) -> None:
        self.options: Dict[str, str] = {}
        self.words: List[str] = []
        self._bare = ""  # the option before, if its value was left out
        self._verb = verb
        self._rest = list(argv)
        while self._rest:
            word = self._rest.pop(0)
            if word == _END:
                self.words += self._rest
                return
            if word.startswith("--"):
                self._option(word)
            elif VERBS[verb].words:
                self.words.append(word)
            else:
                raise Refusal("usage", _not_understood(verb, word, self._bare))

    def _option(self, word: str) -> None:
        name, value = _split(word)
        if name == self._verb:
            _no_value(name, value)
            return
        known = VERBS[self._verb].options
        if name not in known:
            raise Refusal("usage", _not_understood(self._verb, word))
        if name in self.options:
            raise Refusal("usage", f"{name} is given twice")
        kind = known[name]
        if kind == FLAG:
            _no_value(name, value)
        elif value is None and not is_optional(kind):
            value = self._next(name, kind)
        elif value == "" and is_optional(kind):
            raise Refusal("usage", f"{name}: expected {name} or {name}={kind[1:-1]}, found no value")
        self.options[name] = value or ""
        self._bare = name if value is None and is_optional(kind) else ""

    def _next(self, name: str, kind: str) -> str:
        if not self._rest or self._rest[0].startswith("--"):
            raise Refusal("usage", f"{name}: expected {name}={kind}, found no value")
        return self._rest.pop(0)


def _checked(verb: str, words: List[str]) -> Tuple[str, ...]:
    wanted = VERBS[verb].words.split()
    if wanted and wanted[-1] == "...":
        return tuple(words)
    if len(words) < len(wanted):
        raise Refusal("usage", f"{verb}: expected {' and '.join(wanted)}, found no {wanted[len(words)]}")
    if len(words) > len(wanted):
        raise Refusal("usage", _not_understood(verb, words[len(wanted)]))
    return tuple(words)


def _split(word: str) -> Tuple[str, Optional[str]]:
    name, equals, value = word.partition("=")
    return name, value if equals else None


def _no_value(name: str, value: Optional[str]) -> None:
    if value is not None:
        raise Refusal("usage", f"{name} takes no value, found {value[:40]!r}")


def verb_of(names: List[str]) -> str:
    """Raises Refusal for one that is not offered any more, Unknown where there is none."""
    found = [name for name in names if name in VERBS]
    for name in names:
        if name in GONE:
            raise Refusal("not-offered", f"{name}: {GONE[name]}")
    if not found:
        meant = [name for name in names if name not in _ANYWHERE] or names
        what = f"{quoted(meant[0])}: no such command" if meant else "expected a command, found none"
        raise Unknown("usage", f"{what}{_meant(names)}")
    if len(found) > 1:
        raise Refusal("usage", f"one command at a time: {' and '.join(found)} exclude each other")
    return found[0]


def _meant(names: List[str]) -> str:
    from difflib import get_close_matches

    near = [match for name in names for match in get_close_matches(name[:80].replace("_", "-"), VERBS, 1, 0.8)]
    return f". Did you mean {near[0]}?" if near else ""


def _not_understood(verb: str, word: str, bare: str = "") -> str:
    if bare:
        return f"{quoted(word)}: not understood. Is {bare}={quoted(word)} meant?"
    options = VERBS[verb].options
    has = "has the options " + ", ".join(options) if options else "has no options"
    takes = f", and takes {VERBS[verb].words}" if VERBS[verb].words else ""
    return f"{quoted(word)}: not understood. {verb} {has}{takes}"
