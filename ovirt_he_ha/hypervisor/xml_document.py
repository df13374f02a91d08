"""XML from the shared storage or a file: read without letting it do anything.

Whoever can write to the storage can write such a document. So there is no document type (and with it no entity that
grows or names a file), no network, one encoding, and a limit to its length; the parser itself limits depth and the
length of one text.
"""

import re
from typing import Any

from lxml import etree

Element = Any  # lxml's element: its type differs between the versions of the stubs

MAX_XML = 1 << 20  # bytes; a real definition has 10 to 20 KB, a real OVF 20 to 60
# Of one element: the parser compares each attribute with all before it, 15 s of CPU for 1 MiB of them. A real OVF has
# 1,000 such signs in a row, where the definition stands in it as a text.
MOST_ATTRIBUTES = 10_000
_DECLARED = re.compile(r"<\?xml[^>]*?encoding\s*=\s*[\"']([^\"']{1,40})[\"']")
_ENCODINGS = ("utf-8", "utf8", "us-ascii", "ascii")


class XmlProblem(ValueError):
    """``code``: ``too-large``, ``encoding``, ``doctype``, ``attributes`` or ``syntax``."""

    msg = "expected {expected}, found {found}"

    def __init__(self, code: str, expected: str, found: str) -> None:
        super().__init__(code, expected, found)
        self.code = code
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return self.msg.format(expected=self.expected, found=self.found)


def document(data: bytes, most: int = MAX_XML) -> Element:
    """The root element of any ``data`` of at most ``most`` bytes. Raises XmlProblem, never anything else."""
    if len(data) > most:
        raise XmlProblem("too-large", f"at most {most} bytes", str(len(data)))
    text = _text(data)
    # Before any parser sees it: an entity in an attribute is expanded even by a parser that resolves none.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise XmlProblem("doctype", "no document type and no entities", "a DOCTYPE")
    most_signs = max(part.count("=") for part in text.split("<"))
    if most_signs > MOST_ATTRIBUTES:
        raise XmlProblem("attributes", f"at most {MOST_ATTRIBUTES} attributes of an element", f"up to {most_signs}")
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(text.encode("utf-8"), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise XmlProblem("syntax", "well-formed XML", _one_line(str(error))) from None
    tree: Any = root.getroottree()
    if tree.docinfo.doctype:
        raise XmlProblem("doctype", "no document type and no entities", "a DOCTYPE")
    return root


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise XmlProblem(
            "encoding", "text in UTF-8", f"byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from None
    if "\0" in text:
        raise XmlProblem("encoding", "text in UTF-8", "a NUL: another encoding, or the rest of a longer file")
    declared = _DECLARED.match(text.lstrip())
    if declared is not None and declared.group(1).lower() not in _ENCODINGS:
        raise XmlProblem("encoding", "text in UTF-8", f"the declaration of {declared.group(1)!r}")
    return text


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def local_name(node: Element) -> str:
    """Without the namespace; empty for what is no element."""
    return str(node.tag).rpartition("}")[2] if isinstance(node.tag, str) else ""
