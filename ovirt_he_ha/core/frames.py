"""Documents in a file that may end in the middle: compressed chunks, each with its checksum.

A file begins with the line ``he-cycles 1``. A chunk has a head of 12 bytes (``K`` or ``C`` between two marks, length,
CRC-32 of the rest of the head and the payload; big endian) and a payload: the next piece of a zlib stream, which is
complete as far as it goes. A ``K`` chunk begins a new stream with a document that stands by itself. What is damaged
costs the chunks up to the next ``K``.
"""

import json
import struct
import zlib
from binascii import crc32
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Tuple, Union

FORMAT_VERSION = 1
_NAME = b"he-cycles "
HEADER = b"%s%d\n" % (_NAME, FORMAT_VERSION)

_HEAD = struct.Struct(">2scxII")
_MARK = b"\xc7\x0e"
_KEY = b"K"
_NEXT = b"C"
_LONGEST = 1 << 24  # bytes of a payload; 2,000 hosts with full slots take a tenth of it
_LARGEST = 1 << 27  # bytes of a document
# The stream's documents are differences already: a higher level costs three times the CPU for 5 % less.
_LEVEL = 1


class NotARecording(ValueError):
    """The file as a whole cannot be used. The text begins with the offset."""

    msg = "offset {offset}: expected {expected}, found {found}"

    def __init__(self, offset: int, expected: str, found: str) -> None:
        super().__init__(self.msg.format(offset=offset, expected=expected, found=found))
        self.offset = offset
        self.expected = expected
        self.found = found


@dataclass(frozen=True)
class Damage:
    """A place that could not be read; ``skipped`` bytes up to the next chunk that stands by itself, or the end."""

    offset: int
    expected: str
    found: str
    skipped: int

    def __str__(self) -> str:
        text = f"offset {self.offset}: expected {self.expected}, found {self.found}"
        return f"{text}; {self.skipped} bytes skipped"


@dataclass(frozen=True)
class Chunk:
    """``key``: the document stands by itself. ``size``: bytes in the file, with the head."""

    offset: int
    size: int
    key: bool
    document: Any


class Packer:
    """Documents to chunks, in their order."""

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_LEVEL)

    def pack(self, document: Any, key: bool) -> bytes:
        """``document``: whatever JSON can hold. The first one must be a key."""
        if key:
            self._stream = zlib.compressobj(_LEVEL)
        text = json.dumps(document, separators=(",", ":")).encode("ascii")
        payload = self._stream.compress(text) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        kind = _KEY if key else _NEXT
        return _HEAD.pack(_MARK, kind, len(payload), _checksum(kind, payload)) + payload


def _checksum(kind: bytes, payload: bytes) -> int:
    return crc32(payload, crc32(kind + len(payload).to_bytes(4, "big")))


def unpack(data: bytes) -> Iterator[Union[Chunk, Damage]]:
    """Every document of a file, and what could not be read. Raises NotARecording before the first one: no recording, or
    one of another version."""
    offset = _body(data)
    stream: Optional[Any] = None
    while offset < len(data):
        found = _chunk(data, offset, stream)
        if isinstance(found, Damage):
            yield found
            offset += found.skipped
            stream = None
        else:
            chunk, stream, offset = found
            yield chunk


def _body(data: bytes) -> int:
    line, end, _ = data[:64].partition(b"\n")
    if data and HEADER.startswith(data):
        return len(data)  # torn in its first line: nothing in it
    if not end or not line.startswith(_NAME) or not line[len(_NAME) :].isdigit():
        raise NotARecording(
            0, f"a recording of cycles ({_NAME.decode()}...)", repr(data[:12])[1:] if data else "nothing"
        )
    version = int(line[len(_NAME) :])
    if version != FORMAT_VERSION:
        raise NotARecording(
            len(_NAME), f"format version {FORMAT_VERSION}", f"{version}: read it with the version that wrote it"
        )
    return len(line) + 1


def _chunk(data: bytes, offset: int, stream: Optional[Any]) -> Union[Damage, Tuple[Chunk, Any, int]]:
    begin = offset + _HEAD.size
    if begin > len(data):
        return Damage(
            offset, "the head of a chunk", f"the end of the file after {len(data) - offset} bytes", len(data) - offset
        )
    mark, kind, length, checksum = _HEAD.unpack_from(data, offset)
    if mark != _MARK or kind not in (_KEY, _NEXT) or length > _LONGEST:
        return _damage(data, offset, "the head of a chunk", repr(data[offset:begin])[1:])
    payload = data[begin : begin + length]
    if len(payload) < length:
        return _damage(data, offset, f"a chunk of {length} bytes", f"the end of the file after {len(payload)}")
    if _checksum(kind, payload) != checksum:
        return _damage(data, offset, f"the checksum {checksum:08x}", f"{_checksum(kind, payload):08x}")
    key = kind == _KEY
    if not key and stream is None:
        return _damage(data, offset, "a chunk that stands by itself", "one that continues what is not there")
    stream = zlib.decompressobj() if key else stream
    try:
        document = _document(stream, payload)
    except ValueError as error:
        return _damage(data, offset, "a compressed document", str(error))
    return Chunk(offset, _HEAD.size + length, key, document), stream, begin + length


def _document(stream: Any, payload: bytes) -> Any:
    """Raises ValueError."""
    try:
        text = stream.decompress(payload, _LARGEST)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if stream.unconsumed_tail:
        raise ValueError(f"more than {_LARGEST} bytes")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("endless brackets") from None


def _damage(data: bytes, offset: int, expected: str, found: str) -> Damage:
    following = data.find(_MARK + _KEY, offset + 1)
    end = len(data) if following < 0 else following
    return Damage(offset, expected, found, end - offset)
