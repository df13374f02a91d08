"""How a daemon that runs for months treats its memory."""

import gc

# Objects made until the collector looks for circles among the young ones: Python's 700 are made 15 times in one cycle
# with 250 hosts, and what a cycle makes is gone by counting alone.
YOUNG = 10_000


def settle() -> None:
    """Called once when everything is imported and composed: that stays for good, and the collector need not look at it
    again and again (a fifth of a cycle's time with 250 hosts)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
