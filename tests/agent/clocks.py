"""A clock that a test sets."""


class ManualClock:
    """``scale`` 1: product seconds are what the test says they are."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.scale = 1.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_700_000_000

    def wall_seconds(self, product_seconds: float) -> float:
        return product_seconds

    def wait_floor(self, product_seconds: float, floor: float = 2.0) -> float:
        return max(product_seconds, floor)
