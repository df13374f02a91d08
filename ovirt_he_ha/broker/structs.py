"""Typed access to structs that came over the socket: what does not fit raises, and names the member."""

import math
from enum import Enum
from typing import Callable, Optional, Type, TypeVar

from ovirt_he_ha.core.model import Reading

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


class ProtocolError(Exception):
    """A struct that is no snapshot. ``path`` names the member, ``expected`` what belongs there, ``found`` what was
    there."""

    def __init__(self, path: str, expected: str, found: object) -> None:
        super().__init__(f"broker answer: {path}: expected {expected}, found {_short(found)}")
        self.path = path
        self.expected = expected
        self.found = _short(found)


def _short(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"


def integer(value: object, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ProtocolError(path, "an integer", value)


def number(value: object, path: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ProtocolError(path, "a finite number", value)


def flag(value: object, path: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ProtocolError(path, "a boolean", value)


def text(value: object, path: str) -> str:
    if isinstance(value, str):
        return value
    raise ProtocolError(path, "a string", value)


def natural(value: object, path: str) -> int:
    whole = integer(value, path)
    if whole < 0:
        raise ProtocolError(path, "an integer not below 0", value)
    return whole


def word(kind: Type[E]) -> Callable[[object, str], E]:
    def read(value: object, path: str) -> E:
        for member in kind:
            if member.value == value:
                return member
        raise ProtocolError(path, "one of " + ", ".join(str(member.value) for member in kind), value)

    return read


class Members:
    """Typed access to one struct; every failure names the member's path."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise ProtocolError(path, "a struct", value)
        self._values = value
        self.path = path

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, read: Callable[[object, str], T]) -> T:
        if key not in self._values:
            raise ProtocolError(f"{self.path}.{key}", "a value", None)
        return read(self._values[key], f"{self.path}.{key}")

    def optional(self, key: str, read: Callable[[object, str], T]) -> Optional[T]:
        return self.get(key, lambda value, path: None if value is None else read(value, path))

    def struct(self, key: str) -> "Members":
        return self.get(key, Members)

    def reading(self, key: str, read: Callable[[object, str], T]) -> "Reading[T]":
        members = self.struct(key)
        value = members.optional("value", read)
        age = members.optional("age", number)
        unknown = members.get("unknown", text)
        if (value is None) != bool(unknown):
            raise ProtocolError(members.path, "either a value or the code of why there is none", value)
        return Reading(value, age, unknown)
