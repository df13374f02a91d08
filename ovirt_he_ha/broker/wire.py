"""The XML of one call or answer: marshalling with ``i8`` and ``nil``, and a parser that garbage cannot hurt.

A document type declaration is refused before anything is expanded, nesting and digits are bounded; whatever is
wrong with the bytes ends as :class:`WireError`, never as another exception.
"""

import binascii
import math
import xmlrpc.client
from typing import Any, Callable, Dict, Tuple
from xml.parsers import expat

MAX_DEPTH = 32
MAX_DIGITS = 20  # of an integer: i8 has 19 and a sign; int() of a megabyte of digits takes seconds before Python 3.11
_I8 = 1 << 63
_TEXT_BUFFER = 1 << 16  # a text is handed on in pieces of this size, not line by line

Writer = Callable[[str], object]


class WireError(Exception):
    """Bytes that are no XML-RPC call or answer. ``reason`` says what was found."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Marshaller(xmlrpc.client.Marshaller):
    """Integers outside of 32 bits go out as ``i8``, as the field's clients send and accept them."""

    dispatch: Any = dict(xmlrpc.client.Marshaller.dispatch)  # noqa: RUF012 - as its base class declares it

    def dump_int(self, value: int, write: Writer) -> None:
        if not -_I8 <= value < _I8:
            raise WireError("integer does not fit 64 bits")
        tag = "int" if -xmlrpc.client.MAXINT <= value <= xmlrpc.client.MAXINT else "i8"
        write(f"<value><{tag}>{value}</{tag}></value>\n")

    dispatch[int] = dump_int

    def dump_binary(self, value: bytes, write: Writer) -> None:
        """On one line: readers get it in one piece instead of one per 76 characters."""
        encoded = binascii.b2a_base64(value, newline=False).decode("ascii")
        write(f"<value><base64>\n{encoded}\n</base64></value>\n")

    dispatch[bytes] = dump_binary


class _Unmarshaller(xmlrpc.client.Unmarshaller):
    dispatch: Any = {  # noqa: RUF012 - as its base class declares it
        tag: end
        for tag, end in xmlrpc.client.Unmarshaller.dispatch.items()
        if tag not in ("bigdecimal", "biginteger", "dateTime.iso8601")
    }

    def end_int(self, data: str) -> None:
        text = data.strip()
        if len(text) > MAX_DIGITS:
            raise WireError("integer of too many digits")
        number = int(text)
        if not -_I8 <= number < _I8:
            raise WireError("integer does not fit 64 bits")
        self.append(number)
        self._value = False

    def end_double(self, data: str) -> None:
        number = float(data)
        if not math.isfinite(number):
            raise WireError("double that is not finite")
        self.append(number)
        self._value = False

    for _tag in ("int", "i1", "i2", "i4", "i8"):
        dispatch[_tag] = end_int
    dispatch["double"] = end_double


class _Reader:
    """Feeds one document to the unmarshaller and stops at anything that a call never contains."""

    def __init__(self) -> None:
        self.target = _Unmarshaller(use_builtin_types=True)
        self.target.xml(None, None)  # type: ignore[arg-type]  # expat hands out decoded text
        self._depth = 0
        self._parser = expat.ParserCreate(None, None)
        self._parser.buffer_text = True
        self._parser.buffer_size = _TEXT_BUFFER
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self.target.data
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype

    def _start(self, tag: str, attributes: Dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise WireError(f"nested deeper than {MAX_DEPTH} elements")
        self.target.start(tag, attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self.target.end(tag)

    def _refuse_doctype(self, *_declaration: object) -> None:
        raise WireError("a document type declaration is not accepted")

    def read(self, body: bytes) -> Tuple[Tuple[Any, ...], str]:
        self._parser.Parse(body, True)
        values = self.target.close()
        return tuple(values), self.target.getmethodname() or ""


def _parse(body: bytes) -> Tuple[Tuple[Any, ...], str]:
    try:
        return _Reader().read(body)
    except (WireError, xmlrpc.client.Fault):
        raise
    except (expat.ExpatError, xmlrpc.client.Error) as error:
        raise WireError(f"no XML-RPC document: {error or type(error).__name__}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, binascii.Error) as error:
        raise WireError(f"malformed value: {type(error).__name__}") from error


def _dumps(values: Any) -> str:
    try:
        return _Marshaller("utf-8", allow_none=True).dumps(values)
    except (TypeError, OverflowError) as error:
        raise WireError(f"not expressible in XML-RPC: {error}") from error


def call_bytes(method: str, args: Tuple[Any, ...]) -> bytes:
    """A request body. Raises WireError for values that XML-RPC cannot carry."""
    name = xmlrpc.client.escape(method)
    text = f"<?xml version='1.0'?>\n<methodCall>\n<methodName>{name}</methodName>\n{_dumps(args)}</methodCall>\n"
    return text.encode("utf-8", "xmlcharrefreplace")


def answer_bytes(value: Any) -> bytes:
    """The body of a successful answer. Raises WireError for values that XML-RPC cannot carry."""
    text = f"<?xml version='1.0'?>\n<methodResponse>\n{_dumps((value,))}</methodResponse>\n"
    return text.encode("utf-8", "xmlcharrefreplace")


def fault_bytes(code: int, message: str) -> bytes:
    fault = xmlrpc.client.Fault(code, printable(message))
    return f"<?xml version='1.0'?>\n<methodResponse>\n{_dumps(fault)}</methodResponse>\n".encode()


def parse_call(body: bytes) -> Tuple[str, Tuple[Any, ...]]:
    """Method name and arguments of a request body. Raises WireError."""
    try:
        values, method = _parse(body)
    except xmlrpc.client.Fault as fault:
        raise WireError("a fault where a call belongs") from fault
    if not method:
        raise WireError("no method name")
    return method, values


def parse_answer(body: bytes) -> Any:
    """The value of an answer. Raises WireError, or xmlrpc.client.Fault as the server sent it."""
    values, method = _parse(body)
    if method or len(values) != 1:
        raise WireError("not an answer with one value")
    return values[0]


def _in_xml(char: str) -> bool:
    code = ord(char)
    return code in (0x9, 0xA) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


def printable(text: str, limit: int = 4096) -> str:
    """``text`` without the characters that XML cannot carry unchanged (``?`` in their place), cut to ``limit``."""
    return "".join(char if _in_xml(char) else "?" for char in text[:limit])
