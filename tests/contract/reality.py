"""What a case saw in the simulator's model and of the real thing, compared.

A case returns values, which must be the same in both, and times (:class:`Seconds`).
"""


class Seconds:
    """A time that was measured. ``low`` and ``high``: what both must keep, whatever the other says; ``tolerance``: how
    far they may be apart."""

    def __init__(self, took, low, high, tolerance=4.0):
        self.took = took
        self.low = low
        self.high = high
        self.tolerance = tolerance


def differences(model, reality):
    """One line for each."""
    assert list(model) == list(reality), (list(model), list(reality))
    for what, seen in model.items():
        other = reality[what]
        if isinstance(seen, Seconds):
            yield from _of_times(what, seen, other)
        elif seen != other:
            yield f"{what}: {seen} in the model, {other} in reality"


def _of_times(what, seen, other):
    for where, each in (("the model", seen), ("reality", other)):
        if not each.low <= each.took <= each.high:
            yield f"{what}: {each.took:.1f} s in {where}, expected {each.low} to {each.high}"
    if abs(seen.took - other.took) > seen.tolerance:
        yield f"{what}: {seen.took:.1f} s in the model, {other.took:.1f} s in reality, more than {seen.tolerance} s"
