"""Product time on a real machine."""

import math
import os
import time
from typing import Mapping, Optional

from ovirt_he_ha.core.seams import Clock

MAX_SCALE = 20.0  # the fastest at which accelerated sanlock daemons were measured to keep their own bounds


class TimeScaleError(ValueError):
    msg = "HE_TIME_SCALE: expected a number from 1 to {limit:g}, found {found!r}. Unset it: only the lab sets it."

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return self.msg.format(limit=MAX_SCALE, found=self.found)


def time_scale(environ: Optional[Mapping[str, str]] = None) -> float:
    """HE_TIME_SCALE, 1.0 when unset. Raises TimeScaleError for anything that is not a number from 1 to 20."""
    text = (os.environ if environ is None else environ).get("HE_TIME_SCALE", "")
    if not text:
        return 1.0
    try:
        scale = float(text)
    except ValueError:
        raise TimeScaleError(text) from None
    if not (math.isfinite(scale) and 1.0 <= scale <= MAX_SCALE):
        raise TimeScaleError(text)
    return scale


class SystemClock(Clock):
    """CLOCK_MONOTONIC, ``scale`` times as fast. It stands still while the machine is suspended, as sanlock's does.

    Every duration of the product is in product seconds; ``wall_seconds`` turns one into what a real wait needs.
    """

    def __init__(self, scale: Optional[float] = None) -> None:
        self.scale = time_scale() if scale is None else scale

    def monotonic(self) -> float:
        """Product seconds since an arbitrary point of this boot."""
        return time.monotonic() * self.scale

    def wall(self) -> float:
        """Seconds since the epoch, not scaled: for the eyes of people only."""
        return time.time()

    def wall_seconds(self, product_seconds: float) -> float:
        """How long to wait for real; never negative."""
        return max(0.0, product_seconds / self.scale)

    def wait_floor(self, product_seconds: float, floor: float = 2.0) -> float:
        """Like ``wall_seconds`` for what no scale makes faster (HTTP, libvirt, a guest): a scaled deadline is not below
        ``floor`` wall seconds, and an unscaled one stays what it is."""
        return max(self.wall_seconds(product_seconds), min(floor, product_seconds))
