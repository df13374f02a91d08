"""What the engine VM does on two hosts with its lease, told once and run twice: by the simulator's libvirt and sanlock,
and by the product's own calls on real libvirtd, qemu and sanlock.

Seconds are real ones. sanlock runs ten times as fast, at an io_timeout of 2 s: a host is DEAD 7.6 s after its last
renewal was seen, and whoever wants its lease is refused at once for 0.4 s.
"""

from tests.contract.reality import Seconds

CASES = {}
DEAD_AFTER = 7.6


def case(function):
    CASES[function.__name__] = function
    return function


def answered(pair, answer, limit=40.0):
    pair.until(lambda: answer.done, limit)
    return answer.outcome


def runs(pair, host):
    """The VM runs there, and the watch knows it."""
    assert answered(pair, host.start()) == "ok"
    pair.until(lambda: host.facts() == ("up", "none") and host.uptime() is not None, 10)


def stale(pair, host):
    """The host's sanlock is dead, for longer than others refuse at once, and its VM runs on. Returns since when."""
    host.kill_sanlock()
    killed = pair.now
    pair.go(1.0)
    assert host.processes() == 1
    return killed


def waiting(pair):
    """B starts it while A, which has it, is stale. Returns since when, and B's answer to come."""
    runs(pair, pair.a)
    killed = stale(pair, pair.a)
    answer = pair.b.start()
    pair.until(lambda: pair.b.state() == "blocked", 5)
    assert not answer.done and pair.b.processes() == 1
    return killed, answer


@case
def a_start_with_a_free_lease(pair):
    a, b = pair.a, pair.b
    before = a.facts()
    answer = a.start()
    outcome = answered(pair, answer)
    noticed = pair.until(lambda: a.facts() == ("up", "none"), 10)
    again = answered(pair, a.start())
    return {
        "before": before,
        "outcome": outcome,
        "took": Seconds(answer.took, 0.2, 6, 3),
        "noticed after": Seconds(noticed, 0, 2, 2),
        "owner": pair.owner(),
        "again": again,
        "processes": (a.processes(), b.processes()),
        "there": b.facts(),
    }


@case
def a_start_while_another_host_has_it(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    answer = b.start()
    outcome = answered(pair, answer)
    pair.go(2)
    return {
        "outcome": outcome,
        "took": Seconds(answer.took, 0.2, 6, 4),
        "processes": (a.processes(), b.processes()),
        "owner": pair.owner(),
        "states": (a.state(), b.state()),
    }


@case
def a_start_without_the_lockspace(pair):
    b = pair.b
    b.leave()
    outcome = answered(pair, b.start())
    pair.go(1)
    return {"outcome": outcome, "processes": b.processes(), "owner": pair.owner()}


@case
def a_crash(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    a.kill_qemu()
    free = pair.until(lambda: pair.owner() == 0, 5)
    known = pair.until(lambda: a.facts()[1] != "none", 10)
    outcome = answered(pair, b.start())
    return {
        "free after": Seconds(free, 0, 1, 1),
        "known after": Seconds(free + known, 0, 3, 3),
        "facts": a.facts(),
        "next": outcome,
        "owner": pair.owner(),
    }


@case
def a_start_with_a_stale_owner(pair):
    """It blocks, and with it every other call of that libvirt; the images are open all the time."""
    a, b = pair.a, pair.b
    killed, answer = waiting(pair)
    image, process = b.image_is_open(), b.processes()
    other = answered(pair, b.shutdown(1.0))
    blind = b.facts()
    owner = pair.owner()
    outcome = answered(pair, answer)
    granted = pair.now - killed
    pair.until(lambda: b.facts() == ("up", "none"), 15)
    return {
        "image open": image,
        "process": process,
        "another call": other,
        "watch": blind,
        "owner meanwhile": owner,
        "outcome": outcome,
        "granted after": Seconds(granted, 7.2, 10.5, 2),
        "owner": pair.owner(),
        "old copy": a.processes(),
    }


@case
def a_waiting_start_that_its_caller_gives_up(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    stale(pair, a)
    answer = b.start(3.0)
    outcome = answered(pair, answer)
    pair.until(lambda: b.processes() == 0, 5)
    again = answered(pair, b.start(3.0))
    pair.go(DEAD_AFTER + 2)
    return {
        "outcome": outcome,
        "took": Seconds(answer.took, 2.5, 5, 2),
        "again": again,
        "processes": b.processes(),
        "domain": b.state(),
        "then": answered(pair, b.start(20.0)),
    }


@case
def a_waiting_qemu_that_is_killed(pair):
    b = pair.b
    _, answer = waiting(pair)
    b.kill_qemu()
    pair.go(0.3)
    still = not answer.done
    other = answered(pair, b.shutdown(1.0))
    outcome = answered(pair, answer)
    return {"still waits": still, "another call": other, "outcome": outcome, "processes": b.processes()}


@case
def a_libvirtd_that_is_killed_while_a_start_waits(pair):
    """sanlock goes on waiting for qemu, and gets it the lease; it stands still with that until libvirtd is back."""
    b = pair.b
    _, answer = waiting(pair)
    b.kill_libvirtd()
    outcome = answered(pair, answer, 3)
    meanwhile = (pair.owner(), b.processes())
    pair.until(lambda: pair.owner() == 2, 15)
    pair.go(1)
    orphan = (b.processes(), b.cpus_ran())
    b.start_libvirtd()
    pair.until(lambda: b.processes() == 0, 10)
    pair.until(lambda: b.facts() is not None, 10)
    seen = {"outcome": outcome, "meanwhile": meanwhile, "orphan": orphan, "owner": pair.owner(), "domain": b.state()}
    then = answered(pair, b.start(20.0))
    pair.until(lambda: b.cpus_ran() == [True], 10)
    return {**seen, "then": then}


@case
def a_libvirtd_that_is_back_before_the_wait_is_over(pair):
    b = pair.b
    _, answer = waiting(pair)
    b.kill_libvirtd()
    outcome = answered(pair, answer, 3)
    b.start_libvirtd()
    pair.until(lambda: b.processes() == 0, 10)
    pair.go(DEAD_AFTER)
    return {"outcome": outcome, "owner": pair.owner(), "domain": b.state(), "processes": b.processes()}


@case
def power_off(pair):
    a, b = pair.a, pair.b
    nothing = answered(pair, a.destroy(10))
    runs(pair, a)
    answer = a.destroy(10)
    outcome = answered(pair, answer)
    owner = pair.owner()
    known = pair.until(lambda: a.facts()[1] != "none", 5)
    return {
        "nothing": nothing,
        "outcome": outcome,
        "took": Seconds(answer.took, 0, 4, 3),
        "owner": owner,
        "known after": Seconds(known, 0, 3, 3),
        "facts": a.facts(),
        "next": answered(pair, b.start()),
    }


@case
def a_guest_that_ignores_the_button(pair):
    a = pair.a
    runs(pair, a)
    outcome = answered(pair, a.shutdown(5))
    pair.go(6)
    return {
        "outcome": outcome,
        "processes": a.processes(),
        "owner": pair.owner(),
        "facts": a.facts(),
        "off": answered(pair, a.destroy(10)),
        "then": (pair.until(lambda: a.facts()[1] != "none", 5) < 5, a.facts()),
    }


@case
def a_pause_and_what_may_come_of_it(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    a.suspend()
    free = pair.until(lambda: pair.owner() == 0, 5)
    pair.until(lambda: a.paused_for() is not None, 5)
    there = answered(pair, b.start())
    refused = a.resume()
    pair.go(1)
    states, owner = (a.state(), b.state()), pair.owner()
    answered(pair, b.destroy(10))
    stale_memory = a.resume()
    pair.go(1)
    return {
        "free after": Seconds(free, 0, 1, 1),
        "there": there,
        "resumed beside it": refused,
        "states": states,
        "owner": owner,
        "resumed after it": stale_memory,
        "then": (a.state(), pair.owner()),
    }


@case
def a_start_over_a_paused_copy(pair):
    a = pair.a
    runs(pair, a)
    a.suspend()
    outcome = answered(pair, a.start())
    pair.go(1)
    return {"outcome": outcome, "processes": a.processes(), "state": a.state(), "owner": pair.owner()}


@case
def a_libvirtd_that_is_killed_under_a_running_vm(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    a.kill_libvirtd()
    pair.until(lambda: a.facts() is None, 10)
    lost = answered(pair, b.start())
    owner = pair.owner()
    here = answered(pair, a.start())
    a.start_libvirtd()
    pair.until(lambda: a.facts() is not None, 10)
    return {
        "there": lost,
        "here": here,
        "owner": owner,
        "processes": (a.processes(), b.processes()),
        "then": a.facts(),
        "state": a.state(),
    }


@case
def a_crash_and_a_power_off_while_libvirtd_is_away(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    a.kill_libvirtd()
    pair.until(lambda: a.facts() is None, 10)
    off = answered(pair, a.destroy(10))
    free = pair.until(lambda: pair.owner() == 0, 5)
    return {
        "off": off,
        "free after": Seconds(free, 0, 1, 1),
        "processes": a.processes(),
        "next": answered(pair, b.start()),
    }


@case
def leaving_the_lockspace_ends_the_vm(pair):
    a = pair.a
    runs(pair, a)
    a.leave()
    ended = pair.until(lambda: a.processes() == 0, 5)
    pair.until(lambda: a.facts()[1] != "none", 5)
    return {"ends after": Seconds(ended, 0, 2, 2), "facts": a.facts(), "next": answered(pair, pair.b.start())}


@case
def a_rejoin_frees_the_lease_under_a_running_vm(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    a.kill_sanlock()
    a.start_sanlock()
    a.join()
    outcome = answered(pair, b.start())
    return {"outcome": outcome, "owner": pair.owner(), "processes": (a.processes(), b.processes())}


@case
def a_stopped_qemu_is_powered_off(pair):
    a = pair.a
    runs(pair, a)
    a.stop_qemu()
    answer = a.destroy(6)
    outcome = answered(pair, answer)
    return {"outcome": outcome, "took": Seconds(answer.took, 0, 8, 8), "processes": a.processes()}


# --- live migration ---------------------------------------------------------------------------------------------------


@case
def a_move(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    answer = a.migrate(30)
    outcome = answered(pair, answer)
    pair.until(lambda: a.facts()[1] != "none", 5)
    pair.until(lambda: b.facts() == ("up", "none"), 5)
    return {
        "outcome": outcome,
        "source": a.facts(),
        "owner": pair.owner(),
        "processes": (a.processes(), b.processes()),
        "states": (a.state(), b.state()),
    }


@case
def a_move_to_a_host_outside_the_lockspace(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    b.leave()
    outcome = answered(pair, a.migrate(30))
    pair.until(lambda: a.state() == "running", 10)
    pair.until(lambda: b.processes() == 0, 5)
    pair.go(1)
    return {"outcome": outcome, "owner": pair.owner(), "facts": a.facts(), "states": (a.state(), b.state())}


@case
def a_move_to_a_host_without_libvirtd(pair):
    a, b = pair.a, pair.b
    runs(pair, a)
    b.kill_libvirtd()
    outcome = answered(pair, a.migrate(30))
    pair.go(1)
    return {"outcome": outcome, "owner": pair.owner(), "facts": a.facts(), "state": a.state()}


@case
def a_move_to_a_host_that_has_the_vm(pair):
    """Its libvirt refuses before anything is copied. (That two run at all is what a restarted sanlock does.)"""
    a, b = pair.a, pair.b
    runs(pair, a)
    a.kill_sanlock()
    a.start_sanlock()
    a.join()
    assert answered(pair, b.start()) == "ok"
    outcome = answered(pair, b.migrate(30))
    pair.go(1)
    return {"outcome": outcome, "owner": pair.owner(), "states": (a.state(), b.state())}


@case
def a_source_libvirtd_that_dies_before_the_switch(pair):
    """The destination's copy waits for a source that is no more; it ends, and the VM stays where it was."""
    a, b = pair.a, pair.b
    runs(pair, a)
    a.slow_moves()
    answer = a.migrate(60)
    pair.until(lambda: b.processes() == 1, 10)
    a.kill_libvirtd()
    answered(pair, answer)
    pair.until(lambda: b.processes() == 0, 60)
    a.start_libvirtd()
    pair.until(lambda: a.state() == "running", 10)
    pair.go(1)
    return {
        "moved": answer.outcome == "ok",
        "owner": pair.owner(),
        "processes": (a.processes(), b.processes()),
        "domain there": b.state(),
    }
