"""What makes worlds quicker and changes nothing in them: functions that remember their answers, and frozen dataclasses
that are made in fewer steps. Both are put into the product while worlds run, and taken out again.

A frozen dataclass sets each field through ``object.__setattr__``, and ``dataclasses.replace`` asks each field for its
description. The daemons do that some hundred times in ten seconds; worlds do it by the million, and it was a sixth of
all their time.
"""

import dataclasses
import sys
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, Tuple

from ovirt_he_ha.core import slot

PACKAGE = "ovirt_he_ha."
REMEMBERED = 1024  # answers of one function

Function = Callable[..., Any]


@contextmanager
def quickened() -> Iterator[None]:
    """While this lasts. All hosts of a world read the same bytes, so what they say is worked out once."""
    if _places:
        yield  # a world within a world's laboratory
        return
    modules = _modules()
    known = _classes(modules)
    quick: Dict[Function, Function] = {each: remembered(each) for each in (slot.decode, slot.decode_global)}
    quick[dataclasses.replace] = Copier({cls: each.fields for cls, each in known.items()}).replace
    _places.extend(_named(modules))
    for names, name, plain in _places:
        names[name] = quick[plain]
    for cls, each in known.items():
        cls.__init__ = each.quick  # type: ignore[misc]
    try:
        yield
    finally:
        for names, name, plain in _places:
            names[name] = plain
        _places.clear()
        for cls, each in known.items():
            cls.__init__ = each.plain  # type: ignore[misc]


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


# --- where to put them ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Class:
    """A frozen dataclass: the names of its fields, its own constructor, and the quicker one."""

    fields: Tuple[str, ...]
    plain: Function
    quick: Function


_places: List[Tuple[Dict[str, Any], str, Function]] = []  # where something else stands now


def _modules() -> Tuple[ModuleType, ...]:
    """Of the package, without this one."""
    found = [each for name, each in list(sys.modules.items()) if name.startswith(PACKAGE) and name != __name__]
    return tuple(found)


@lru_cache(maxsize=1)  # of one process; a command loads another module now and then
def _named(modules: Tuple[ModuleType, ...]) -> Tuple[Tuple[Dict[str, Any], str, Function], ...]:
    """Where these functions are called by a name of the module: (its names, the name, the function)."""
    wanted: Tuple[Function, ...] = (slot.decode, slot.decode_global, dataclasses.replace)
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
    for cls in [each for module in modules for each in vars(module).values() if isinstance(each, type)]:
        if cls not in found and is_plain(cls):
            fields = tuple(each.name for each in dataclasses.fields(cls))
            found[cls] = Class(fields, vars(cls)["__init__"], constructor(cls))
    return found


# --- frozen dataclasses -----------------------------------------------------------------------------------------------


def is_plain(cls: type) -> bool:
    """A frozen dataclass whose constructor sets its fields, and does nothing else."""
    parameters = vars(cls).get("__dataclass_params__")
    if parameters is None or not (parameters.frozen and parameters.init) or hasattr(cls, "__post_init__"):
        return False
    fields = dataclasses.fields(cls)
    return all(each.init and not getattr(each, "kw_only", False) for each in fields) and "__slots__" not in vars(cls)


def constructor(cls: type) -> Function:
    """As its own, but the fields go straight into the object's dictionary."""
    known: Dict[str, Any] = {"MISSING": dataclasses.MISSING}
    arguments, body = ["self"], ["found = self.__dict__"]
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
        body.append(f"found[{name!r}] = {value}")
    text = "\n    ".join([f"def __init__({', '.join(arguments)}):", *body])
    exec(text, known)  # noqa: S102 (its own is made in this way, too)
    made: Function = known["__init__"]
    return made


class Copier:
    """``fields``: class -> names of its fields, of all classes that are plain."""

    def __init__(self, fields: Dict[type, Tuple[str, ...]]) -> None:
        self._fields = fields
        self._plain = dataclasses.replace

    def replace(self, obj: Any, **changes: Any) -> Any:
        """As ``dataclasses.replace``."""
        cls = obj.__class__
        names = self._fields.get(cls)
        if names is None:
            return self._plain(obj, **changes)
        made, before = object.__new__(cls), obj.__dict__
        found = made.__dict__
        for name in names:
            found[name] = before[name]
        found.update(changes)
        if len(found) != len(names):
            return self._plain(obj, **changes)  # raises: one of them is no field
        return made
