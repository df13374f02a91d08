"""Options of the command line: what is wrong with them is one line."""

import argparse
from typing import Callable, NoReturn

MOST_JOBS = 256
MOST_SEED = 1 << 62
SHOWN = 60  # characters of what was found instead


class Parser(argparse.ArgumentParser):
    """Exit status 2 and one line that names the option, for what cannot be read."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help shows all options)\n")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A type for ``add_argument``: a whole number from ``low`` to ``high``, both included."""

    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(high)) else low - 1
        if not low <= number <= high:
            found = repr(text) if len(text) <= SHOWN else repr(text[:SHOWN]) + "..."
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, found {found}")
        return number

    return read
