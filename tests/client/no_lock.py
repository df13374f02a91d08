"""The configuration without its lock."""


class NoLock:
    """There is no sanlock beside these tests; tests/contract has it."""

    fresh = False

    def __init__(self, *_):
        self.released = None

    def enter(self):
        pass

    def check(self):
        pass

    def release(self, late_writers=()):
        self.released = late_writers
