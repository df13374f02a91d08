"""What the hosts' accesses to the slots come to, told once and run twice: over the simulator's volume, and by the
product's I/O worker with O_DIRECT on a real volume (a file seen through views that can hang or fail, or a loop device).

Deadlines and hangs are in real seconds: nothing here is accelerated.
"""

from tests.contract.reality import Seconds

SLOT = 4096
ONE, TWO, THREE = (digit * SLOT for digit in (b"1", b"2", b"3"))
BLANK = bytes(SLOT)
LAST = 2000
CASES = {}
PLAIN = set()  # those that need no trouble: also for block devices


def case(function):
    CASES[function.__name__] = function
    return function


def plain(function):
    PLAIN.add(function.__name__)
    return case(function)


def timed(volume, call):
    begun = volume.now
    return call(), volume.now - begun


@plain
def slots_there_and_back(volume):
    a = volume.host(1)
    written = [a.write(slot, data) for slot, data in ((0, ONE), (1, TWO), (LAST, THREE))]
    whole = a.read(0, LAST + 1)
    return {
        "written": written,
        "read": [a.read(slot) for slot in (0, 1, 2, LAST)] == [ONE, TWO, BLANK, THREE],
        "whole": (len(whole), whole[:SLOT] == ONE, whole[LAST * SLOT :] == THREE, whole[2 * SLOT : 3 * SLOT] == BLANK),
    }


@plain
def the_end_of_the_volume(volume):
    a = volume.host(1)
    a.write(LAST, ONE)
    return {
        "read behind": a.read(LAST + 1),
        "read across": a.read(LAST, 2),
        "write behind": a.write(LAST + 1, TWO),
        "last": a.read(LAST) == ONE,
    }


@plain
def one_host_sees_at_once_what_another_wrote(volume):
    a, b = volume.host(1), volume.host(2)
    seen = []
    for turn in range(5):
        a.write(1, bytes([turn]) * SLOT)
        b.write(2, bytes([100 + turn]) * SLOT)
        both = [host.read(1, 2) for host in (a, b)]
        seen.append(both == [bytes([turn]) * SLOT + bytes([100 + turn]) * SLOT] * 2)
    return {"seen": seen}


@plain
def neighbours_stay_as_they_are(volume):
    a, b = volume.host(1), volume.host(2)
    for slot in (4, 5, 6):
        a.write(slot, ONE)
    b.write(5, TWO)
    return {"slots": [a.read(slot) for slot in (3, 4, 5, 6, 7)] == [BLANK, ONE, TWO, ONE, BLANK]}


@case
def errors_have_their_code(volume):
    a, b = volume.host(1), volume.host(2)
    a.write(1, ONE)
    a.error()
    failed = (a.read(1), a.write(1, TWO))
    other = b.read(1) == ONE
    a.mend()
    return {"failed": failed, "other": other, "then": a.read(1) == ONE, "late": a.late_writes()}


@case
def a_volume_that_is_away(volume):
    a = volume.host(1)
    a.write(1, ONE)
    a.take_away()
    failed = (a.read(1), a.write(1, TWO))
    a.mend()
    return {"failed": failed, "then": a.read(1) == ONE}


@case
def a_hang_is_given_up_at_the_deadline(volume):
    a, b = volume.host(1), volume.host(2)
    a.write(1, ONE)
    a.hang(30)
    first, took = timed(volume, lambda: a.read(1, deadline=1.0))
    second = a.read(1, deadline=1.0)
    third, at_once = timed(volume, lambda: a.read(1, deadline=1.0))
    other = b.read(1) == ONE
    a.mend()
    volume.go(0.5)
    return {
        "first": first,
        "took": Seconds(took, 0.95, 2.0, 1.0),
        "second": second,
        "third": third,
        "at once": Seconds(at_once, 0, 0.5, 0.5),
        "other": other,
        "then": a.read(1) == ONE,
    }


@case
def a_hang_that_ends_in_time_is_a_slow_answer(volume):
    a = volume.host(1)
    a.write(1, ONE)
    a.hang(0.7)
    data, took = timed(volume, lambda: a.read(1, deadline=5.0))
    a.hang(0.7)
    written, waited = timed(volume, lambda: a.write(1, TWO, deadline=5.0))
    return {
        "read": data == ONE,
        "took": Seconds(took, 0.6, 1.5, 0.7),
        "written": written,
        "waited": Seconds(waited, 0.6, 1.5, 0.7),
        "then": a.read(1) == TWO,
        "late": a.late_writes(),
    }


@case
def a_write_that_was_given_up_lands_later_over_a_newer_one(volume):
    a, b = volume.host(1), volume.host(2)
    a.write(1, ONE)
    a.hang(30)
    given_up = a.write(1, TWO, deadline=1.0)
    late = a.late_writes()
    newer = b.write(1, THREE)
    before = b.read(1) == THREE
    a.mend()
    volume.go(0.5)
    return {
        "given up": given_up,
        "late": late,
        "newer": newer,
        "before": before,
        "after": b.read(1) == TWO,
        "then": a.read(1) == TWO,
        "late then": a.late_writes(),
    }


@case
def two_writes_hang_and_both_land(volume):
    a, b = volume.host(1), volume.host(2)
    a.hang(30)
    given_up = [a.write(slot, TWO, deadline=1.0) for slot in (1, 2)]
    third = a.write(3, TWO, deadline=1.0)
    late = sorted(a.late_writes())
    a.mend()
    volume.go(0.5)
    return {"given up": given_up, "third": third, "late": late, "landed": b.read(1, 3) == TWO + TWO + BLANK}


@case
def slow_is_slow_and_too_slow_is_overdue(volume):
    a = volume.host(1)
    a.write(1, ONE)
    a.slow(0.6)
    data, took = timed(volume, lambda: a.read(1, deadline=5.0))
    a.slow(2.5)
    late, gave_up = timed(volume, lambda: a.read(1, deadline=1.0))
    a.mend()
    volume.go(2.5)
    return {
        "read": data == ONE,
        "took": Seconds(took, 0.6, 1.5, 0.7),
        "too slow": late,
        "gave up": Seconds(gave_up, 0.95, 2.0, 1.0),
        "then": a.read(1) == ONE,
    }


@case
def a_slot_of_two_halves_is_read_as_it_stands(volume):
    """Nothing below the product mends it, and no read is refused. (How a write comes to be torn is told, not shown.)"""
    a, b = volume.host(1), volume.host(2)
    a.write(1, ONE)
    volume.tear(1, TWO, 1024)
    return {"read": [host.read(1) for host in (a, b)] == [TWO[:1024] + ONE[1024:]] * 2}
