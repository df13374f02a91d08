"""The nouns as plain values (None, bool, int, float, str, list, dict with text keys) and back, and the difference of
two of them: what a recording is made of.

A shape is derived from a class's annotations, so a field that is added to a noun is recorded without a line here. A
field that a stored value does not have gets the noun's default: recordings of an older version stay readable. One that
the noun does not know is refused, because a decision that depended on it cannot be repeated.

Exact: ``value(plain(x)) == x``, floats to the last bit, 0 is not 0.0, mappings keep their order. A *patch* is what
turns one value into the next: ``patched(old, patch(old, new)) == new``.
"""

import dataclasses
from enum import Enum
from functools import cache
from math import copysign
from operator import attrgetter, is_
from types import MappingProxyType
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    List,
    Mapping,
    Sequence,
    Tuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

_SCALARS = (bool, int, float, str, type(None))


class Same:
    """The patch between two equal values."""


SAME = Same()


class ShapeError(ValueError):
    """A stored value that is not what the noun wants. ``field`` is its place, such as ``snapshot.host.host_id``."""

    msg = "{field}: expected {expected}, found {found}"

    def __init__(self, field: str, expected: str, found: object) -> None:
        self.field = field
        self.expected = expected
        self.found = repr(found)[:60]
        super().__init__(self.msg.format(field=field, expected=expected, found=self.found))


class Shape:
    """A scalar; the other shapes refine it. The patch of a scalar is the new scalar."""

    def plain(self, value: Any) -> Any:
        return value

    def value(self, plain: Any, field: str) -> Any:
        """Raises ShapeError."""
        if isinstance(plain, _SCALARS):
            return plain
        raise ShapeError(field, "a number, a text, true, false or null", plain)

    def patch(self, old: Any, new: Any) -> Any:
        if old == new and old.__class__ is new.__class__ and (new or not _signs_differ(old, new)):
            return SAME
        return self.plain(new)

    def patched(self, old: Any, patch: Any, field: str) -> Any:
        """Raises ShapeError."""
        return self.value(patch, field)


def _signs_differ(old: Any, new: Any) -> bool:
    return isinstance(new, float) and copysign(1.0, old) != copysign(1.0, new)


class Words(Shape):
    """An enum, stored as its value."""

    def __init__(self, kind: Any) -> None:
        self._by_value = {member.value: member for member in kind}

    def plain(self, value: Any) -> Any:
        return None if value is None else value.value

    def value(self, plain: Any, field: str) -> Any:
        if plain is None:
            return None
        if isinstance(plain, str) and plain in self._by_value:
            return self._by_value[plain]
        raise ShapeError(field, "one of " + ", ".join(self._by_value), plain)

    def patch(self, old: Any, new: Any) -> Any:
        return SAME if old is new else self.plain(new)


class _Whole(Shape):
    """What is not a scalar: a patch is a dict, or a list of one item, the whole new value."""

    def patch(self, old: Any, new: Any) -> Any:
        if old is new:
            return SAME
        if old is None or new is None:
            return [self.plain(new)]
        return self._patch(old, new)

    def patched(self, old: Any, patch: Any, field: str) -> Any:
        if isinstance(patch, list) and len(patch) == 1:
            return self.value(patch[0], field)
        if not isinstance(patch, dict) or old is None:
            raise ShapeError(field, "a change, or a list of the one new value", patch)
        return self._patched(old, patch, field)

    def _patch(self, old: Any, new: Any) -> Any:
        """By default the whole new value."""
        return [self.plain(new)]

    def _patched(self, old: Any, patch: Dict[str, Any], field: str) -> Any:
        raise ShapeError(field, "a list of the one new value", patch)


class Noun(_Whole):
    """A dataclass, stored as a dict of its fields; ``without`` names fields that are stored elsewhere."""

    def __init__(self, kind: Any, shapes: Mapping[str, Shape], without: FrozenSet[str] = frozenset()) -> None:
        self._kind = kind
        self._shapes = {name: shape for name, shape in shapes.items() if name not in without}
        self._without = without
        self._names = tuple(self._shapes)
        self._pairs = tuple(self._shapes.items())
        self._get: Callable[[Any], Tuple[Any, ...]] = (
            attrgetter(*self._names)
            if len(self._names) > 1
            else lambda value: tuple(vars(value)[n] for n in self._names)
        )

    @property
    def shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def plain(self, value: Any) -> Any:
        if value is None:
            return None
        return {name: shape.plain(item) for (name, shape), item in zip(self._pairs, self._get(value))}

    def value(self, plain: Any, field: str) -> Any:
        if plain is None:
            return None
        return self.build(plain, field, {})

    def build(self, plain: Any, field: str, more: Mapping[str, Any]) -> Any:
        """The noun of a stored dict, with ``more`` for the fields that are stored elsewhere. Raises ShapeError."""
        if not isinstance(plain, dict):
            raise ShapeError(field, f"the fields of {self._kind.__name__}", plain)
        self._refuse_unknown(plain, field)
        values = {name: self._shapes[name].value(item, f"{field}.{name}") for name, item in plain.items()}
        try:
            return self._kind(**values, **more)
        except TypeError as error:
            raise ShapeError(field, f"the fields of {self._kind.__name__}", str(error)) from None

    def _patch(self, old: Any, new: Any) -> Any:
        found = {}
        for (name, shape), before, after in zip(self._pairs, self._get(old), self._get(new)):
            if before is not after:
                change = shape.patch(before, after)
                if change is not SAME:
                    found[name] = change
        return found or SAME

    def _patched(self, old: Any, patch: Dict[str, Any], field: str) -> Any:
        self._refuse_unknown(patch, field)
        changes = {
            name: self._shapes[name].patched(getattr(old, name), change, f"{field}.{name}")
            for name, change in patch.items()
        }
        return dataclasses.replace(old, **changes)

    def _refuse_unknown(self, plain: Dict[str, Any], field: str) -> None:
        for name in plain:
            if name not in self._shapes:
                raise ShapeError(f"{field}.{name}", f"a field of {self._kind.__name__} in this version", name)


class Table(_Whole):
    """A mapping. Its patch: ``-`` keys that go, ``+`` what changes or comes (at the end)."""

    def __init__(self, key: type, item: Shape) -> None:
        self._key = key
        self._item = item

    def plain(self, value: Any) -> Any:
        return None if value is None else {str(key): self._item.plain(item) for key, item in value.items()}

    def value(self, plain: Any, field: str) -> Any:
        if plain is None:
            return None
        if not isinstance(plain, dict):
            raise ShapeError(field, "a table", plain)
        return MappingProxyType(
            {self._own_key(key, field): self._item.value(item, f"{field}[{key}]") for key, item in plain.items()}
        )

    def _own_key(self, key: str, field: str) -> Any:
        if self._key is str:
            return key
        if isinstance(key, str) and key.lstrip("-").isdecimal() and key.isascii():
            return int(key)
        raise ShapeError(field, "a whole number as the key", key)

    def _patch(self, old: Mapping[Any, Any], new: Mapping[Any, Any]) -> Any:
        keys, before = list(new), list(old)
        if keys == before and all(map(is_, old.values(), new.values())):
            return SAME
        gone = [key for key in before if key not in new]
        if keys != [key for key in before if key in new] + [key for key in keys if key not in old]:
            return [self.plain(new)]
        come: Dict[str, Any] = {}
        for key in keys:
            if key not in old:
                come[str(key)] = [self._item.plain(new[key])]
            elif (change := self._item.patch(old[key], new[key])) is not SAME:
                come[str(key)] = change
        if not gone and not come:
            return SAME
        return {"+": come, "-": gone} if gone else {"+": come}

    def _patched(self, old: Mapping[Any, Any], patch: Dict[str, Any], field: str) -> Any:
        gone, come = patch.get("-", []), patch.get("+")
        if not isinstance(gone, list) or not isinstance(come, dict):
            raise ShapeError(field, "what goes and what comes", patch)
        result = {key: item for key, item in old.items() if key not in gone}
        for text, change in come.items():
            key, place = self._own_key(text, field), f"{field}[{text}]"
            if key in old:
                result[key] = self._item.patched(old[key], change, place)
            elif isinstance(change, list) and len(change) == 1:
                result[key] = self._item.value(change[0], place)
            else:
                raise ShapeError(place, "a list of the one new value", change)
        return MappingProxyType(result)


class Row(_Whole):
    """A tuple of any length. Its patch: the first ``drop`` and the last ``cut`` items go, then ``add`` comes in the
    place of the ``take`` items from ``at`` on."""

    def __init__(self, item: Shape) -> None:
        self._item = item

    def plain(self, value: Any) -> Any:
        return [self._item.plain(item) for item in value]

    def value(self, plain: Any, field: str) -> Tuple[Any, ...]:
        if not isinstance(plain, list):
            raise ShapeError(field, "a list", plain)
        return tuple(self._item.value(item, f"{field}[{index}]") for index, item in enumerate(plain))

    def _patch(self, old: Sequence[Any], new: Sequence[Any]) -> Any:
        shortest = min(len(old), len(new))
        if len(old) == len(new) and all(map(is_, old, new)):
            return SAME
        head = 0
        while head < shortest and self._equal(old[head], new[head]):
            head += 1
        if head == len(old) == len(new):
            return SAME
        tail = 0
        while tail < shortest - head and self._equal(old[-1 - tail], new[-1 - tail]):
            tail += 1
        moved = self._moved(old, new) if old and new and not head and not tail else None
        if moved is not None:
            return moved
        take = len(old) - head - tail
        return {"at": head, "take": take, "add": [self._item.plain(item) for item in new[head : len(new) - tail]]}

    def _moved(self, old: Sequence[Any], new: Sequence[Any]) -> Any:
        """The patch of a window that moved on at either end, if what stayed are the same objects."""
        for drop in range(1, len(old)):
            if old[drop] is new[0]:
                kept = len(old) - drop
                if kept <= len(new) and all(map(is_, old[drop:], new)):
                    return {"drop": drop, "at": kept, "take": 0, "add": [self._item.plain(x) for x in new[kept:]]}
        for put in range(1, len(new)):
            if new[put] is old[0]:
                kept = len(new) - put
                if kept <= len(old) and all(map(is_, new[put:], old)):
                    cut = len(old) - kept
                    return {"cut": cut, "at": 0, "take": 0, "add": [self._item.plain(x) for x in new[:put]]}
        return None

    def _equal(self, one: Any, other: Any) -> bool:
        return one is other or self._item.patch(one, other) is SAME

    def _patched(self, old: Tuple[Any, ...], patch: Dict[str, Any], field: str) -> Any:
        add = self.value(patch.get("add"), field)
        drop, cut, at, take = (patch.get(name, 0) for name in ("drop", "cut", "at", "take"))
        if not all(isinstance(number, int) and number >= 0 for number in (drop, cut, at, take)):
            raise ShapeError(field, "places in a list", patch)
        kept = old[drop : len(old) - cut]
        if drop + cut > len(old) or at + take > len(kept):
            raise ShapeError(field, f"a place in a list of {len(old)}", patch)
        return kept[:at] + add + kept[at + take :]


class Pair(_Whole):
    """A tuple of fixed length."""

    def __init__(self, items: Tuple[Shape, ...]) -> None:
        self._items = items

    def plain(self, value: Any) -> Any:
        return [shape.plain(item) for shape, item in zip(self._items, value)]

    def value(self, plain: Any, field: str) -> Any:
        if not isinstance(plain, list) or len(plain) != len(self._items):
            raise ShapeError(field, f"a list of {len(self._items)}", plain)
        return tuple(shape.value(item, f"{field}[{n}]") for n, (shape, item) in enumerate(zip(self._items, plain)))

    def _patch(self, old: Any, new: Any) -> Any:
        same = all(shape.patch(a, b) is SAME for shape, a, b in zip(self._items, old, new))
        return SAME if same else [self.plain(new)]


class Choice(_Whole):
    """One of several dataclasses, stored as a dict of the class's name and its fields."""

    def __init__(self, kinds: Mapping[type, Noun]) -> None:
        self._by_type = kinds
        self._by_name = {kind.__name__.lower(): noun for kind, noun in kinds.items()}

    def plain(self, value: Any) -> Any:
        return {type(value).__name__.lower(): self._by_type[type(value)].plain(value)}

    def value(self, plain: Any, field: str) -> Any:
        if not isinstance(plain, dict) or len(plain) != 1 or next(iter(plain)) not in self._by_name:
            raise ShapeError(field, "one of " + ", ".join(self._by_name), plain)
        name, stored = next(iter(plain.items()))
        return self._by_name[name].value(stored, field)

    def _patch(self, old: Any, new: Any) -> Any:
        same = type(old) is type(new) and self._by_type[type(new)].patch(old, new) is SAME
        return SAME if same else [self.plain(new)]


# --- from annotations to shapes --------------------------------------------------------------------------------------


@cache
def shape_of(hint: Any) -> Shape:
    """The shape of an annotation. Raises TypeError for one that cannot be stored."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Union:
        return _union([arg for arg in args if arg is not type(None)])
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return Row(shape_of(args[0]))
        return Pair(tuple(shape_of(arg) for arg in args))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return Table(args[0], shape_of(args[1]))
    kind = origin or hint
    if dataclasses.is_dataclass(kind):
        return noun_of(hint)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Words(kind)
    if kind in _SCALARS:
        return Shape()
    raise TypeError(f"{hint!r} has no plain form")


@cache
def noun_of(hint: Any, without: FrozenSet[str] = frozenset()) -> Noun:
    """The shape of a dataclass, generic ones included; ``without``: fields that are stored elsewhere."""
    kind = get_origin(hint) or hint
    bound: Dict[Any, Any] = dict(zip(getattr(kind, "__parameters__", ()), get_args(hint)))
    hints = get_type_hints(kind)
    return Noun(kind, {f.name: shape_of(_bind(hints[f.name], bound)) for f in dataclasses.fields(kind)}, without)


def _bind(hint: Any, bound: Mapping[Any, Any]) -> Any:
    """``hint`` with its type variables replaced."""
    if isinstance(hint, TypeVar):
        return bound[hint]
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple(bound[each] for each in parameters)] if parameters else hint


def _union(kinds: List[Any]) -> Shape:
    if len(kinds) == 1:
        return shape_of(kinds[0])
    if all(dataclasses.is_dataclass(kind) for kind in kinds):
        return Choice({kind: noun_of(kind) for kind in kinds})
    raise TypeError(f"{kinds!r} has no plain form")
