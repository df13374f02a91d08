"""A slot's bytes as one text, and the difference between two such texts: what a recording holds of the whiteboard.

The text is the host line, a newline and the free text, without padding. A difference is a flat list of places in the
old text, how many characters go there, and what comes instead; after it both checksums (field 9 of the host line, and
``crc=`` at the end of the free text, where they are) are made anew.

Finding a difference must cost microseconds, because with 250 hosts 250 slots change in every cycle. What changes in a
slot is nearly always what changed before (times, a countdown), so the rest is held as a template that the next slot's
bytes are laid against.
"""

import re
from binascii import crc32
from typing import Any, Iterator, List, Optional, Set, Tuple

from ovirt_he_ha.core.model import SLOT_SIZE, Record, Slot
from ovirt_he_ha.core.slot import LINE_SIZE, TEXT_SIZE

_NULS = bytes(SLOT_SIZE)
_CRC_FIELD = 9
_BLANK = "00000000"
_SEAL = re.compile(r"crc=[0-9a-f]{8}\n")
_SEAL_SIZE = 13
_CRC_NAME = f"|{_CRC_FIELD}"
_LINE_ENDS = "|"

_Unit = Tuple[str, str]  # name and text


def text_of(data: bytes) -> Optional[str]:
    """None for bytes that would not come back exactly: not 4,096, something behind a NUL, a newline in the host
    line."""
    if len(data) != SLOT_SIZE:
        return None
    line_end, text_end = data.find(0, 0, LINE_SIZE), data.find(0, LINE_SIZE)
    line_end = LINE_SIZE if line_end < 0 else line_end
    text_end = SLOT_SIZE if text_end < 0 else text_end
    if not (data.startswith(_NULS[line_end:LINE_SIZE], line_end) and data.endswith(_NULS[text_end:])):
        return None
    if data.find(10, 0, line_end) >= 0:
        return None
    return (data[:line_end] + b"\n" + data[LINE_SIZE:text_end]).decode("latin-1")


def bytes_of(text: str) -> bytes:
    """The 4,096 bytes. Raises ValueError for a text that is no slot's."""
    line, newline, rest = text.partition("\n")
    if not newline or len(line) > LINE_SIZE or len(rest) > TEXT_SIZE:
        raise ValueError(f"a host line of {len(line)} and a free text of {len(rest)} characters")
    return line.encode("latin-1").ljust(LINE_SIZE, b"\0") + rest.encode("latin-1").ljust(TEXT_SIZE, b"\0")


def spliced(text: str, difference: List[Any]) -> str:
    """The next text, with its checksums. Raises ValueError for a difference that does not belong to this one."""
    parts: List[str] = []
    done = 0
    for at, take, comes in zip(difference[::3], difference[1::3], difference[2::3]):
        if not (isinstance(at, int) and isinstance(take, int) and isinstance(comes, str)):
            raise ValueError("places, lengths and texts are mixed up")
        if not done <= at <= at + take <= len(text):
            raise ValueError(f"place {at} and length {take} in {len(text)} characters")
        parts += (text[done:at], comes)
        done = at + take
    return _sealed("".join([*parts, text[done:]]))


def _sealed(text: str) -> str:
    line, newline, rest = text.partition("\n")
    fields = line.split("|")
    if len(fields) > _CRC_FIELD:
        fields[_CRC_FIELD] = _BLANK
        fields[_CRC_FIELD] = f"{crc32('|'.join(fields).encode('latin-1')):08x}"
    if _SEAL.fullmatch(rest, max(0, len(rest) - _SEAL_SIZE)):
        body = rest[:-_SEAL_SIZE]
        rest = f"{body}crc={crc32(body.encode('latin-1')):08x}\n"
    return "|".join(fields) + newline + rest


def is_sealed(data: bytes, meaning: Slot) -> bool:
    """Whether the checksums of ``data`` can be made from the rest: they are there and right, or not there."""
    return isinstance(meaning, Record) and (meaning.extra_ok or b"crc=" not in data)


class Follower:
    """One host's slot, from one to the next.

    ``_fixed`` and ``_loose`` alternate and make up the bytes up to the free text's checksum, or to its end where there
    is none: fixed, loose, fixed ... fixed. Fixed pieces have stayed the same since the follower began; the padding of
    the host line belongs to one.
    """

    def __init__(self, data: bytes, text: str, own_crc: bool) -> None:
        """``own_crc``: the free text ends with its checksum (``Record.extra_ok``)."""
        self._text: Optional[str] = text  # None: to be made from the bytes
        self._data = data
        self._own_crc = own_crc
        self._restless: Set[str] = set()  # names of fields and lines that are loose
        self._line = text.index("\n")  # length of the host line
        self._crc = 0  # number of the loose piece that is the host line's checksum; 0: none is
        end = LINE_SIZE + len(text) - self._line - 1 - (_SEAL_SIZE if own_crc else 0)
        self._fixed: Tuple[bytes, ...] = (data[:end],)
        self._loose: List[bytes] = []

    def follow(self, data: bytes, own_crc: bool) -> Optional[List[Any]]:
        """The difference to the slot before, empty if there is none. ``data`` is sealed. None: it cannot be told, and
        this follower is of no more use."""
        if own_crc is not self._own_crc:
            return None
        found = self._by_template(data)
        if found is None:
            return self._by_units(data)
        self._data, self._text = data, None
        return found

    def _by_template(self, data: bytes) -> Optional[List[Any]]:
        """None if the fixed pieces are not all there in their order, or a loose one is not what it was."""
        found: List[Any] = []
        loose: List[bytes] = []
        at = end = len(self._fixed[0])  # in the old bytes and in the new ones
        if not data.startswith(self._fixed[0]):
            return None
        for number, old in enumerate(self._loose, 1):
            piece = self._fixed[number]
            begin = end + len(old)
            if not data.startswith(piece, begin):
                begin = data.find(piece, end)
                if begin < 0:
                    return None
            new = data[end:begin]
            if new != old:
                in_line = at < self._line
                if 0 in new or (in_line and (10 in new or new.count(b"|") != old.count(b"|"))):
                    return None
                if number != self._crc:
                    place = at if in_line else at - LINE_SIZE + self._line + 1
                    found += (place, len(old), new.decode("latin-1"))
            loose.append(new)
            at += len(old) + len(piece)
            end = begin + len(piece)
        if not self._ends(data, end):
            return None
        self._loose = loose
        return found

    def _ends(self, data: bytes, end: int) -> bool:
        if not self._own_crc:
            return data.endswith(_NULS[end:])
        end += _SEAL_SIZE  # a right checksum says that nothing but NULs comes after it
        return end <= SLOT_SIZE and data[end - 1] == 10 and not data[end : end + 1].strip(b"\0")

    def _by_units(self, data: bytes) -> Optional[List[Any]]:
        before, text = self._text or text_of(self._data), text_of(data)
        if before is None or text is None:
            return None
        old, new = _units(before, self._own_crc), _units(text, self._own_crc)
        places = [0]
        for _, unit in old:
            places.append(places[-1] + len(unit))
        found: List[Any] = []
        for begin, end, comes in _pairs(old, new):
            if old[begin:end] == comes:
                continue
            if end - begin == 1:
                self._restless.add(old[begin][0])
            if [name for name, _ in old[begin:end]] != [_CRC_NAME]:
                found += (places[begin], places[end] - places[begin], "".join(unit for _, unit in comes))
        self._data, self._text = data, text
        self._template(new)
        return found

    def _template(self, units: List[_Unit]) -> None:
        """Cut the bytes into pieces. Adjacent loose units are one piece, which is not left out then if one of them is
        the host line's checksum."""
        self._line = self._crc = 0
        fixed: List[bytes] = [b""]
        loose: List[bytes] = []
        for name, unit in units:
            if name == _LINE_ENDS:
                self._line = sum(map(len, fixed)) + sum(map(len, loose))
                fixed[-1] += _NULS[self._line : LINE_SIZE]
            elif name not in self._restless:
                fixed[-1] += unit.encode("latin-1")
            elif loose and not fixed[-1]:
                loose[-1] += unit.encode("latin-1")
                self._crc = 0 if self._crc == len(loose) else self._crc
            else:
                loose.append(unit.encode("latin-1"))
                fixed.append(b"")
                self._crc = len(loose) if name == _CRC_NAME else self._crc
        self._fixed, self._loose = tuple(fixed), loose


def _units(text: str, own_crc: bool) -> List[_Unit]:
    """Fields of the host line by their numbers, and lines of the free text by their keys, with what ends them; without
    the free text's checksum."""
    line, _, rest = text.partition("\n")
    if own_crc:
        rest = rest[:-_SEAL_SIZE]
    fields = [(f"|{number}", field) for number, field in enumerate(_ended(line.split("|"), "|"))]
    lines = [(each.partition("=")[0], each) for each in _ended(rest.split("\n"), "\n")]
    return [*fields, (_LINE_ENDS, "\n"), *lines]


def _ended(items: List[str], end: str) -> List[str]:
    return [*(item + end for item in items[:-1]), items[-1]]


def _pairs(old: List[_Unit], new: List[_Unit]) -> Iterator[Tuple[int, int, List[_Unit]]]:
    """Which of the old units correspond to which new ones: one to one as long as the names are the same, from either
    end, and what is left in the middle to what is left there."""
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    for number in range(head):
        yield number, number + 1, [new[number]]
    yield head, len(old) - tail, new[head : len(new) - tail]
    for number in range(tail, 0, -1):
        yield len(old) - number, len(old) - number + 1, [new[-number]]


def _common(old: List[_Unit], new: List[_Unit]) -> int:
    shortest = min(len(old), len(new))
    return next((n for n in range(shortest) if old[n][0] != new[n][0]), shortest)
