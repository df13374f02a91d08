"""What makes worlds quicker and changes nothing in them: functions that remember their answers, frozen dataclasses that
are made in fewer steps, and values of enumerations. All are put into the product while worlds run, and taken out again.

A frozen dataclass sets each field through ``object.__setattr__``, ``dataclasses.replace`` asks each field for its
description, and the interpreter stores and finds plain attributes in half the time, which needs a class without a
``__setattr__`` of its own. The daemons do that some hundred times in ten seconds; worlds do it by the million, and it
was a quarter of all their time. So in worlds the fields can be assigned; that nobody does is what mypy sees.
"""

import dataclasses
import sys
from contextlib import contextmanager
from enum import Enum
from functools import lru_cache
from operator import attrgetter
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, Tuple

from ovirt_he_ha.core import safeguards, slot

PACKAGE = "ovirt_he_ha."
METHODS = ("__init__", "__setattr__", "__delattr__")
REMEMBERED = 1024  # answers of one function

Function = Callable[..., Any]


@contextmanager
def quickened() -> Iterator[None]:
    """While this lasts. All hosts of a world read the same bytes, so what they say is worked out once."""
    if _places:
        yield  # a world within a world's laboratory
        return
    modules = _modules()
    classes, enums = _classes(modules), _enums(modules)
    quick: Dict[Function, Function] = {each: remembered(each) for each in (slot.decode, slot.decode_global)}
    quick.update({each: known(each) for each in (safeguards.score_digest, safeguards.timers_digest)})
    quick[dataclasses.replace] = Copier({cls: each.copy for cls, each in classes.items()}).replace
    _places.extend(_named(modules))
    for names, name, plain in _places:
        names[name] = quick[plain]
    for cls, each in classes.items():
        each.put_into(cls)
    for enum in enums:
        enum.value = property(attrgetter("_value_"))
    try:
        yield
    finally:
        for names, name, plain in _places:
            names[name] = plain
        _places.clear()
        for cls, each in classes.items():
            each.take_out_of(cls)
        for enum in enums:
            del enum.value


def remembered(plain: Function) -> Function:
    """The same answers: they depend on nothing but the arguments, which do not change."""
    known: Dict[Tuple[Any, ...], Any] = {}

    def answer(*arguments: Any) -> Any:
        found = known.get(arguments)
        if found is None:
            if len(known) >= REMEMBERED:
                known.clear()
            found = known[arguments] = plain(*arguments)
        return found

    return answer


def known(plain: Function) -> Function:
    """The same answers for the same object, of which there are few: a cache by its value would hash all of it each
    time."""
    answers: Dict[int, Tuple[Any, Any]] = {}

    def answer(argument: Any) -> Any:
        found = answers.get(id(argument))
        if found is None:
            if len(answers) >= REMEMBERED:
                answers.clear()
            found = answers[id(argument)] = (argument, plain(argument))  # kept: its id is nobody else's
        return found[1]

    return answer


# --- where to put them ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Class:
    """A frozen dataclass: its own methods, the quicker constructor, and what copies one with changes."""

    plain: Tuple[Tuple[str, Function], ...]
    quick: Function
    copy: Function

    def put_into(self, cls: type) -> None:
        cls.__init__ = self.quick  # type: ignore[misc]
        for name, _ in self.plain[1:]:
            delattr(cls, name)

    def take_out_of(self, cls: type) -> None:
        for name, method in self.plain:
            setattr(cls, name, method)


_places: List[Tuple[Dict[str, Any], str, Function]] = []  # where something else stands now


def _modules() -> Tuple[ModuleType, ...]:
    """Of the package, without this one."""
    found = [each for name, each in list(sys.modules.items()) if name.startswith(PACKAGE) and name != __name__]
    return tuple(found)


@lru_cache(maxsize=1)  # of one process; a command loads another module now and then
def _named(modules: Tuple[ModuleType, ...]) -> Tuple[Tuple[Dict[str, Any], str, Function], ...]:
    """Where these functions are called by a name of the module: (its names, the name, the function)."""
    wanted: Tuple[Function, ...] = (
        slot.decode, slot.decode_global, safeguards.score_digest, safeguards.timers_digest, dataclasses.replace,
    )  # fmt: skip
    return tuple(
        (vars(module), name, plain)
        for module in modules
        for name, found in vars(module).items()
        for plain in wanted
        if found is plain
    )


@lru_cache(maxsize=1)
def _classes(modules: Tuple[ModuleType, ...]) -> Dict[type, Class]:
    found: Dict[type, Class] = {}
    for cls in _types(modules):
        if cls not in found and is_plain(cls):
            plain = tuple((name, vars(cls)[name]) for name in METHODS)
            found[cls] = Class(plain, constructor(cls), copier(cls))
    return found


@lru_cache(maxsize=1)
def _enums(modules: Tuple[ModuleType, ...]) -> Tuple[Any, ...]:
    found = {cls for cls in _types(modules) if issubclass(cls, Enum) and cls.__module__.startswith(PACKAGE)}
    return tuple(cls for cls in found if "value" not in vars(cls))


def _types(modules: Tuple[ModuleType, ...]) -> List[type]:
    return [each for module in modules for each in vars(module).values() if isinstance(each, type)]


# --- frozen dataclasses -----------------------------------------------------------------------------------------------


def is_plain(cls: type) -> bool:
    """A frozen dataclass whose constructor sets its fields, and does nothing else."""
    parameters = vars(cls).get("__dataclass_params__")
    if parameters is None or not (parameters.frozen and parameters.init) or hasattr(cls, "__post_init__"):
        return False
    fields = dataclasses.fields(cls)
    if not all(each.init and not getattr(each, "kw_only", False) for each in fields) or "__slots__" in vars(cls):
        return False
    return all(name in vars(cls) for name in METHODS)


def constructor(cls: type) -> Function:
    """As its own, but each field is simply assigned."""
    known: Dict[str, Any] = {"MISSING": dataclasses.MISSING}
    arguments, body = ["self"], ["pass"]
    for each in dataclasses.fields(cls):
        name, value = each.name, each.name
        if each.default is not dataclasses.MISSING:
            known[f"default_{name}"] = each.default
            arguments.append(f"{name}=default_{name}")
        elif each.default_factory is not dataclasses.MISSING:
            known[f"make_{name}"] = each.default_factory
            arguments.append(f"{name}=MISSING")
            value = f"make_{name}() if {name} is MISSING else {name}"
        else:
            arguments.append(name)
        body.append(f"self.{name} = {value}")
    return _function(f"__init__({', '.join(arguments)})", body, known)


def copier(cls: type) -> Function:
    """``copy(obj, **changes)``: as ``dataclasses.replace`` for this class."""
    names = [each.name for each in dataclasses.fields(cls)]
    arguments = ["obj_"] + (["*"] if names else []) + [f"{name}=MISSING" for name in names]
    body = ["made_ = new(cls)"]
    body += [f"made_.{name} = obj_.{name} if {name} is MISSING else {name}" for name in names]
    known = {"MISSING": dataclasses.MISSING, "new": object.__new__, "cls": cls}
    return _function(f"copy({', '.join(arguments)})", [*body, "return made_"], known)


def _function(head: str, body: List[str], known: Dict[str, Any]) -> Function:
    text = "\n    ".join([f"def {head}:", *body])
    exec(text, known)  # noqa: S102 (a dataclass makes its own in this way, too)
    made: Function = known[head.partition("(")[0]]
    return made


class Copier:
    """``copies``: class -> what copies it, of all classes that are plain."""

    def __init__(self, copies: Dict[type, Function]) -> None:
        self._copies = copies
        self._plain = dataclasses.replace

    def replace(self, obj: Any, **changes: Any) -> Any:
        """As ``dataclasses.replace``."""
        copy = self._copies.get(obj.__class__)
        return self._plain(obj, **changes) if copy is None else copy(obj, **changes)
