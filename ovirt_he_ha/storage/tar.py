"""Headers of uncompressed tar archives, as they begin the configuration volume and the OVF_STORE volumes."""

from typing import List, Optional, Tuple

BLOCK = 512
FILES = (b"0", b"\0", b"7")  # types of a member that is a file


class TarDamage(ValueError):
    """``at``: offset of the header in the archive."""

    msg = "no member begins at offset {at}, where one should"

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at

    def __str__(self) -> str:
        return self.msg.format(at=self.at)


def padded(size: int) -> int:
    """Bytes that ``size`` bytes of content take."""
    return -(-size // BLOCK) * BLOCK


def header(name: str, size: int) -> bytes:
    """Ustar: mode 0644, owner 0:0 without names, time 0."""
    fields: List[Tuple[int, bytes]] = [
        (0, name.encode("ascii")),
        (100, b"0000644\0"),
        (108, b"0000000\0"),
        (116, b"0000000\0"),
        (124, b"%011o\0" % size),
        (136, b"%011o\0" % 0),
        (148, b" " * 8),
        (156, b"0"),
        (257, b"ustar\00000"),
        (329, b"0000000\0"),
        (337, b"0000000\0"),
    ]
    made = bytearray(BLOCK)
    for offset, value in fields:
        made[offset : offset + len(value)] = value
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def _octal(field: bytes) -> Optional[int]:
    """None: not a number in tar's notation."""
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if any(digit not in b"01234567" for digit in digits):
        return None
    return int(digits, 8)


def is_header(block: bytes) -> bool:
    """The checksum counts its own field as spaces."""
    stated = _octal(block[148:156])
    return len(block) == BLOCK and stated == sum(block) - sum(block[148:156]) + 8 * 32


def member(block: bytes, at: int) -> Tuple[str, int, bool]:
    """Name, bytes of content, and whether it is a file. Raises TarDamage."""
    size = _octal(block[124:136])
    if not is_header(block) or size is None:
        raise TarDamage(at)
    name = block[:100].split(b"\0", 1)[0].decode("ascii", "replace")
    return name[2:] if name.startswith("./") else name, size, block[156:157] in FILES
