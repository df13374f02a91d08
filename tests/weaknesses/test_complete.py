"""Each of the seventy has a test that is named after it, or a line that says why it cannot occur here."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALL = set(range(1, 71))
_ROW = re.compile(r"^\| W-(\d+) \|(.*)\|$", re.M)


def tables():
    """(covered, cannot occur): number -> the cells after it."""
    text = (ROOT / "docs" / "differences.md").read_text()
    covered, _, cannot = text.partition("## Weaknesses that cannot occur here")
    return tuple(
        {int(number): [cell.strip() for cell in cells.split("|")] for number, cells in _ROW.findall(part)}
        for part in (covered, cannot)
    )


def files_by_number():
    """Number -> files with a test of that name."""
    found = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for number in re.findall(r"def test_w(\d\d)_", path.read_text()):
            found.setdefault(int(number), set()).add(str(path.relative_to(ROOT)))
    return found


def test_none_is_forgotten():
    covered, cannot = tables()
    assert set(covered) | set(cannot) == ALL
    assert set(covered) & set(cannot) == set()
    assert ALL - set(files_by_number()) <= set(cannot)
    assert all(cells[0] and cells[1] for cells in cannot.values())


def test_the_table_names_the_files():
    covered, _ = tables()
    files = files_by_number()
    for number, cells in covered.items():
        named = set(re.findall(r"`(tests/[^`]+)`", cells[1]))
        assert named, number
        assert named <= files[number], number
