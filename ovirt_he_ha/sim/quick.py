"""What makes worlds quicker and changes nothing in them: functions that remember their answers, frozen dataclasses that
are made in fewer steps, values of enumerations, properties that are worked out once without a lock. All are put into
the product while worlds run, and taken out again.

A frozen dataclass sets each field through ``object.__setattr__``, ``dataclasses.replace`` asks each field for its
description, and the interpreter stores and finds plain attributes in half the time, which needs a class without a
``__setattr__`` of its own. The daemons do that some hundred times in ten seconds; worlds do it by the million, and it
was a quarter of all their time. So in worlds the fields can be assigned; that nobody does is what mypy sees.
"""

import dataclasses
import sys
from contextlib import contextmanager
from enum import Enum
from functools import cached_property, lru_cache
from operator import attrgetter
from types import ModuleType
from typing import Any, Dict, Iterator, List, Tuple

from ovirt_he_ha.sim import answers
from ovirt_he_ha.sim.answers import PLAIN, Function, quick_functions

PACKAGE = "ovirt_he_ha."
ANSWERS = answers.__name__
METHODS = ("__init__", "__setattr__", "__delattr__")
_store = object.__setattr__


@contextmanager
def quickened() -> Iterator[None]:
    """While this lasts. All hosts of a world read the same bytes, so what they say is worked out once."""
    if _places:
        yield  # a world within a world's laboratory
        return
    modules = _modules()
    classes, enums, once = _classes(modules), _enums(modules), _once(modules)
    quick = quick_functions()
    quick[dataclasses.replace] = Copier({cls: each.copy for cls, each in classes.items()}).replace
    _places.extend(_named(modules))
    for names, name, plain in _places:
        names[name] = quick[plain]
    for cls, each in classes.items():
        each.put_into(cls)
    for enum in enums:
        enum.value = property(attrgetter("_value_"))
    for owner, name, unlocked, _ in once:
        setattr(owner, name, unlocked)
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
        for owner, name, _, locked in once:
            setattr(owner, name, locked)


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
    wanted = {id(plain): plain for plain in (*PLAIN, dataclasses.replace)}
    return tuple(
        (vars(module), name, wanted[id(found)])
        for module in modules
        if module.__name__ != ANSWERS
        for name, found in vars(module).items()
        if id(found) in wanted
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


@lru_cache(maxsize=1)
def _once(modules: Tuple[ModuleType, ...]) -> Tuple[Tuple[type, str, "Once", Any], ...]:
    """(class, name of the property, without a lock, as it was)"""
    return tuple(
        (cls, name, Once(found.func, name), found)
        for cls in sorted(set(_types(modules)), key=lambda each: (each.__module__, each.__qualname__))
        if cls.__module__.startswith(PACKAGE)
        for name, found in vars(cls).items()
        if isinstance(found, cached_property)
    )


class Once:
    """As functools.cached_property, whose lock (until Python 3.12) costs more than what most of them work out."""

    def __init__(self, work_out: Function, name: str) -> None:
        self._work_out = work_out
        self._name = name

    def __get__(self, found: Any, owner: Any = None) -> Any:
        value = self._work_out(found)
        _store(found, self._name, value)  # through __dict__, each other field would be slower to find
        return value


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
    """``copy(obj, changes)``: as ``dataclasses.replace`` for this class."""
    names = [each.name for each in dataclasses.fields(cls)]
    body = ["if not has(changes): return plain(obj, **changes)", "made = new(cls)"]  # which says what it has not
    body += [f"made.{name} = obj.{name}" for name in names]
    body += ["for name, value in changes.items(): put(made, name, value)", "return made"]
    known = {"has": frozenset(names).issuperset, "plain": dataclasses.replace, "new": object.__new__, "cls": cls}
    return _function("copy(obj, changes)", body, {**known, "put": setattr})


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
        return self._plain(obj, **changes) if copy is None else copy(obj, changes)
