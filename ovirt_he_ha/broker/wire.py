"""The XML of one call or answer: marshalling with ``i8`` and ``nil``, and a parser that garbage cannot hurt.

A document type declaration is refused before anything is expanded, nesting and digits are bounded; whatever is
wrong with the bytes ends as :class:`WireError`, never as another exception.

The standard library's module has the same format. It is not used, because it brings HTTP, TLS and mail along: 5 MB in
each daemon and 15 ms at every start of the command line; and because it takes twice as long for each value.
"""

import binascii
import math
from typing import Any, Callable, Dict, List, Tuple, Type
from xml.parsers import expat

MAX_DEPTH = 32
MAX_DIGITS = 20  # of an integer: i8 has 19 and a sign; int() of a megabyte of digits takes seconds before Python 3.11
_I8 = 1 << 63
_I4 = (1 << 31) - 1
_TEXT_BUFFER = 1 << 16  # a text is handed on in pieces of this size, not line by line
_SHOWN = 80

_HEAD = "<?xml version='1.0'?>\n"


class WireError(Exception):
    """Bytes that are no XML-RPC call or answer. ``reason`` says what was found."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class WireFault(Exception):
    """The other side's refusal: ``code`` and ``message`` as it sent them."""

    def __init__(self, code: object, message: object) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


# --- writing ----------------------------------------------------------------------------------------------------------


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _put_int(value: int, out: List[str], _depth: int) -> None:
    if -_I4 <= value <= _I4:
        out.append(f"<value><int>{value}</int></value>\n")
        return
    if not -_I8 <= value < _I8:
        raise WireError("integer does not fit 64 bits")
    out.append(f"<value><i8>{value}</i8></value>\n")


def _put_nil(_value: None, out: List[str], _depth: int) -> None:
    out.append("<value><nil/></value>\n")


def _put_bool(value: bool, out: List[str], _depth: int) -> None:
    out.append(f"<value><boolean>{int(value)}</boolean></value>\n")


def _put_float(value: float, out: List[str], _depth: int) -> None:
    out.append(f"<value><double>{value!r}</double></value>\n")


def _put_text(value: str, out: List[str], _depth: int) -> None:
    out.append(f"<value><string>{_escaped(value)}</string></value>\n")


def _put_bytes(value: bytes, out: List[str], _depth: int) -> None:
    """On one line: readers get it in one piece instead of one per 76 characters."""
    encoded = binascii.b2a_base64(value, newline=False).decode("ascii")
    out.append(f"<value><base64>\n{encoded}\n</base64></value>\n")


def _put_list(value: "List[Any]", out: List[str], depth: int) -> None:
    out.append("<value><array><data>\n")
    for item in value:
        _put(item, out, depth + 1)
    out.append("</data></array></value>\n")


def _put_struct(value: "Dict[str, Any]", out: List[str], depth: int) -> None:
    out.append("<value><struct>\n")
    for key, item in value.items():
        if type(key) is not str:
            raise WireError(f"not expressible in XML-RPC: a struct's key of type {type(key).__name__}")
        out.append(f"<member>\n<name>{_escaped(key)}</name>\n")
        _put(item, out, depth + 1)
        out.append("</member>\n")
    out.append("</struct></value>\n")


_WRITERS: Dict[Type[Any], Callable[[Any, List[str], int], None]] = {
    type(None): _put_nil,
    bool: _put_bool,
    int: _put_int,
    float: _put_float,
    str: _put_text,
    bytes: _put_bytes,
    list: _put_list,
    tuple: _put_list,
    dict: _put_struct,
}


def _put(value: Any, out: List[str], depth: int) -> None:
    writer = _WRITERS.get(type(value))
    if writer is None:
        raise WireError(f"not expressible in XML-RPC: {type(value).__name__}")
    if depth > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH} values")
    writer(value, out, depth)


def call_bytes(method: str, args: Tuple[Any, ...]) -> bytes:
    """A request body. Raises WireError for values that XML-RPC cannot carry."""
    out = [f"{_HEAD}<methodCall>\n<methodName>{_escaped(method)}</methodName>\n<params>\n"]
    for arg in args:
        out.append("<param>\n")
        _put(arg, out, 0)
        out.append("</param>\n")
    out.append("</params>\n</methodCall>\n")
    return "".join(out).encode("utf-8", "xmlcharrefreplace")


def answer_bytes(value: Any) -> bytes:
    """The body of a successful answer. Raises WireError for values that XML-RPC cannot carry."""
    out = [f"{_HEAD}<methodResponse>\n<params>\n<param>\n"]
    _put(value, out, 0)
    out.append("</param>\n</params>\n</methodResponse>\n")
    return "".join(out).encode("utf-8", "xmlcharrefreplace")


def fault_bytes(code: int, message: str) -> bytes:
    out = [f"{_HEAD}<methodResponse>\n<fault>\n"]
    _put({"faultCode": int(code), "faultString": printable(message)}, out, 0)
    out.append("</fault>\n</methodResponse>\n")
    return "".join(out).encode("utf-8", "xmlcharrefreplace")


# --- reading ----------------------------------------------------------------------------------------------------------


def _int(text: str) -> int:
    digits = text.strip()
    if len(digits) > MAX_DIGITS:
        raise WireError("integer of too many digits")
    number = int(digits)
    if not -_I8 <= number < _I8:
        raise WireError("integer does not fit 64 bits")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise WireError("double that is not finite")
    return number


def _bool(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _base64(text: str) -> bytes:
    """Strictly: the decoder skips what it does not know, and of mere garbage nothing is left, which is how a slot is
    blanked and a global flag is cleared."""
    compact = "".join(text.split())
    data = binascii.a2b_base64(compact)
    if binascii.b2a_base64(data, newline=False).decode("ascii") != compact:
        raise WireError("base64 with other characters or of a wrong length")
    return data


def _nil(_text: str) -> None:
    return None


_SCALARS: Dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("int", "i1", "i2", "i4", "i8"), _int),
    "double": _float,
    "float": _float,
    "boolean": _bool,
    "string": str,
    "name": str,
    "base64": _base64,
    "nil": _nil,
}
_KINDS = ("params", "fault")


class _Reader:
    """Collects one document's values and stops at anything that a call never contains."""

    def __init__(self) -> None:
        self.values: List[Any] = []
        self.method = ""
        self.kind = ""
        self._marks: List[int] = []  # where the open arrays and structs begin in ``values``
        self._pieces: List[str] = []
        self._bare = False  # inside a value, and no type was named yet: then its text is a string
        self._depth = 0

    def _start(self, tag: str, _attributes: Dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise WireError(f"nested deeper than {MAX_DEPTH} elements")
        name = tag.rpartition(":")[2] if ":" in tag else tag
        if name in ("array", "struct"):
            self._marks.append(len(self.values))
        elif self._bare and name not in _SCALARS:
            raise WireError(f"value of unknown type {name[:_SHOWN]}")
        del self._pieces[:]
        self._bare = name == "value"

    def _end(self, tag: str) -> None:
        self._depth -= 1
        name = tag.rpartition(":")[2] if ":" in tag else tag
        scalar = _SCALARS.get(name)
        if scalar is not None:
            self.values.append(scalar("".join(self._pieces)))
        elif name == "value":
            if self._bare:
                self.values.append("".join(self._pieces))
        elif name in ("array", "struct"):
            self._close(name)
        elif name == "methodName":
            self.method = "".join(self._pieces)
        elif name in _KINDS:
            self.kind = name
        self._bare = False
        del self._pieces[:]

    def _close(self, name: str) -> None:
        mark = self._marks.pop()
        items = self.values[mark:]
        if name == "array":
            self.values[mark:] = [items]
            return
        if len(items) % 2:
            raise WireError("a struct's member without name or value")
        names = items[::2]
        if not all(type(name) is str for name in names):
            raise WireError("a struct's member whose name is no text")
        self.values[mark:] = [dict(zip(names, items[1::2]))]

    def _refuse_doctype(self, *_declaration: object) -> None:
        raise WireError("a document type declaration is not accepted")

    def read(self, body: bytes) -> None:
        # The parser knows us, we do not know it: a circle would keep a large answer until the next collection.
        parser = expat.ParserCreate(None, None)
        parser.buffer_text = True
        parser.buffer_size = _TEXT_BUFFER
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._pieces.append
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.Parse(body, True)
        if not self.method and not self.kind:
            raise WireError("neither a call nor an answer")


def _parse(body: bytes) -> _Reader:
    try:
        reader = _Reader()
        reader.read(body)
        return reader
    except WireError:
        raise
    except expat.ExpatError as error:
        raise WireError(f"no XML-RPC document: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, binascii.Error) as error:
        raise WireError(f"malformed value: {type(error).__name__}") from error


def parse_call(body: bytes) -> Tuple[str, Tuple[Any, ...]]:
    """Method name and arguments of a request body. Raises WireError."""
    reader = _parse(body)
    if reader.kind == "fault":
        raise WireError("a fault where a call belongs")
    if not reader.method:
        raise WireError("no method name")
    return reader.method, tuple(reader.values)


def parse_answer(body: bytes) -> Any:
    """The value of an answer. Raises WireError, or WireFault for a fault."""
    reader = _parse(body)
    if reader.method or len(reader.values) != 1:
        raise WireError("not an answer with one value")
    value = reader.values[0]
    if reader.kind != "fault":
        return value
    if not isinstance(value, dict) or not {"faultCode", "faultString"} <= value.keys():
        raise WireError("a fault without code and text")
    raise WireFault(value["faultCode"], value["faultString"])


def _in_xml(char: str) -> bool:
    code = ord(char)
    return code in (0x9, 0xA) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


def printable(text: str, limit: int = 4096) -> str:
    """``text`` without the characters that XML cannot carry unchanged (``?`` in their place), cut to ``limit``."""
    short = text[:limit]
    return short if short.isprintable() else "".join(char if _in_xml(char) else "?" for char in short)
