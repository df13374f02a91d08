"""A slot's bytes as one text, and the difference between two such texts: what a recording holds of the whiteboard.

The text is the host line, a newline and the free text, without padding. A difference is a flat list of places in the
old text, how many characters go there, and what comes instead. Finding it must cost microseconds, because with 250
hosts 250 slots change in every cycle: what changes in a slot is nearly always what changed before (times, checksums, a
countdown), so the rest is held as a template that the next text is laid against.
"""

from typing import Any, Iterable, List, Optional, Set, Tuple

from ovirt_he_ha.core.model import SLOT_SIZE
from ovirt_he_ha.core.slot import LINE_SIZE, TEXT_SIZE

_NULS = bytes(SLOT_SIZE)


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
    """The next text. Raises ValueError for a difference that does not belong to this one."""
    parts: List[str] = []
    done = 0
    for at, take, comes in zip(difference[::3], difference[1::3], difference[2::3]):
        if not (isinstance(at, int) and isinstance(take, int) and isinstance(comes, str)):
            raise ValueError("places, lengths and texts are mixed up")
        if not done <= at <= at + take <= len(text):
            raise ValueError(f"place {at} and length {take} in {len(text)} characters")
        parts += (text[done:at], comes)
        done = at + take
    return "".join([*parts, text[done:]])


class Follower:
    """One host's text, from one to the next.

    ``_fixed`` and ``_loose`` alternate and make up the text: fixed, loose, fixed ... fixed. Fixed pieces have stayed
    the same since the follower began, or since the number of lines changed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._restless: Set[int] = set()  # numbers of the units (fields and lines) that are loose
        self._fixed: Tuple[str, ...] = (text,)
        self._loose: List[str] = []

    def follow(self, text: str) -> List[Any]:
        """The difference to the text before, empty if there is none."""
        found = self._by_template(text)
        return self._by_units(text) if found is None else found

    def _by_template(self, text: str) -> Optional[List[Any]]:
        """None if the fixed pieces are not all there in their order."""
        found: List[Any] = []
        loose: List[str] = []
        at = end = len(self._fixed[0])  # in the old text and in the new one
        if not text.startswith(self._fixed[0]):
            return None
        for old, piece in zip(self._loose, self._fixed[1:]):
            begin = end + len(old)
            if not text.startswith(piece, begin):
                begin = text.find(piece, end)
                if begin < 0:
                    return None
            new = text[end:begin]
            if new != old:
                found += (at, len(old), new)
            loose.append(new)
            at += len(old) + len(piece)
            end = begin + len(piece)
        if end != len(text):
            return None
        self.text, self._loose = text, loose
        return found

    def _by_units(self, text: str) -> List[Any]:
        old, new = _units(self.text), _units(text)
        self.text = text
        if len(old) != len(new):
            self._restless = set()
            self._template(new)
            return _middle(old, new)
        differing = {number for number, (one, other) in enumerate(zip(old, new)) if one != other}
        self._restless |= differing
        self._template(new)
        found: List[Any] = []
        at = 0
        for number, unit in enumerate(old):
            if number in differing:
                found += (at, len(unit), new[number])
            at += len(unit)
        return found

    def _template(self, units: List[str]) -> None:
        fixed: List[str] = [""]
        loose: List[str] = []
        for number, unit in enumerate(units):
            if number not in self._restless:
                fixed[-1] += unit
            elif loose and not fixed[-1]:
                loose[-1] += unit
            else:
                loose.append(unit)
                fixed.append("")
        self._fixed, self._loose = tuple(fixed), loose


def _units(text: str) -> List[str]:
    """Fields of the host line and lines of the free text, with what ends them."""
    line, _, rest = text.partition("\n")
    return [*_ended(line.split("|"), "|"), "\n", *_ended(rest.split("\n"), "\n")]


def _ended(items: List[str], end: str) -> Iterable[str]:
    return [*(item + end for item in items[:-1]), items[-1]]


def _middle(old: List[str], new: List[str]) -> List[Any]:
    """What stands between the units that both begin with and those that both end with."""
    shortest = min(len(old), len(new))
    head = next((n for n in range(shortest) if old[n] != new[n]), shortest)
    tail = next((n for n in range(shortest - head) if old[-1 - n] != new[-1 - n]), shortest - head)
    goes, comes = old[head : len(old) - tail], new[head : len(new) - tail]
    return [sum(map(len, old[:head])), sum(map(len, goes)), "".join(comes)]
