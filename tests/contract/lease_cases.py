"""What one lease and its lockspace do, told once and run twice: by the simulator's sanlock and by real daemons.

A case drives hosts and returns what it saw (reality.py), times in seconds of sanlock's clock. They are counted from a
renewal on the disk wherever the moment of the renewals matters (one comes every 20 s), so that chance has no part in
them.
"""

from tests.contract.reality import Seconds

EAGAIN = 11
LIVE, FAIL, DEAD, UNKNOWN = "live", "fail", "dead", "unknown"
CASES = {}
VIEWS = set()  # the cases in which a host has a way to the storage that can fail


def case(function):
    CASES[function.__name__] = function
    return function


def with_view(function):
    VIEWS.add(function.__name__)
    return case(function)


# --- words ----------------------------------------------------------------------------------------------------------


def wait(cluster, *answers, limit=400.0):
    cluster.until(lambda: all(answer.done for answer in answers), limit)
    return [answer.code for answer in answers]


def join_apart(cluster, *hosts):
    """Their renewals come at different moments, as they would."""
    answers = []
    for host in hosts:
        answers.append(host.join())
        cluster.go(5)
    assert wait(cluster, *answers) == [0] * len(hosts)


def joined(cluster, count=2):
    """So many hosts that know each other to be alive."""
    hosts = [cluster.host(number) for number in range(1, count + 1)]
    join_apart(cluster, *hosts)
    everybody = {number: LIVE for number in range(1, count + 1)}
    cluster.until(lambda: all(host.flags() == everybody for host in hosts), 100)
    return hosts


def renewed(cluster, host_id):
    """The moment of that host's next renewal."""
    before = cluster.renewal(host_id)
    cluster.until(lambda: cluster.renewal(host_id) != before, 60)
    return cluster.now


def standing(cluster, host_id):
    """Of a host id on the disk: its generation, and whether somebody has it."""
    generation, timestamp = cluster.renewal(host_id)
    return generation, timestamp > 0


def taken(cluster, host):
    assert wait(cluster, host.take()) == [0]
    assert cluster.owner().host_id == host.number


def last_seen(cluster, owner, observer):
    """The owner renews, and the observer sees it. Returns that moment; the owner's next renewal is far."""
    for _ in range(5):
        at = renewed(cluster, owner)
        seen = renewed(cluster, observer)
        if seen - at < 15:
            return seen
    raise AssertionError("they renew in the same moments")


def flag_at(cluster, host, host_id, flag, since, limit=400.0):
    cluster.until(lambda: host.flags().get(host_id) == flag, limit)
    return cluster.now - since


# --- lockspaces -----------------------------------------------------------------------------------------------------


@case
def join(cluster):
    hosts = [cluster.host(number) for number in (1, 2, 3)]
    answers = [host.join() for host in hosts]
    cluster.go(5)
    joining = hosts[0].spaces()
    space, age, _ = hosts[0].status()
    wait(cluster, answers[0])
    first_code = hosts[0].hosts_code()
    codes = wait(cluster, *answers)
    blind = cluster.until(lambda: hosts[0].hosts_code() == 0)
    until_live = cluster.until(lambda: hosts[0].flags() == {1: LIVE, 2: LIVE, 3: LIVE}, 100)
    return {
        "while joining": joining,
        "status while joining": space,
        "as if renewed at the clock's beginning": age > (1 << 30 if cluster.real else 4),
        "codes": codes,
        "takes": Seconds(max(answer.took for answer in answers), 20.5, 24),
        "held": hosts[0].spaces(),
        "list at first": first_code in (0, EAGAIN),
        "list of hosts after": Seconds(blind, 0, 5),
        "others live after": Seconds(until_live, 10, 45, 22),
        "generations": [cluster.renewal(number)[0] for number in (1, 2, 3)],
    }


@case
def what_is_not_joined(cluster):
    host = cluster.host(1)
    hosts = host.hosts_code()
    held = wait(cluster, host.take())[0] == 0
    left = host.leave().code if not cluster.real else wait(cluster, host.leave())[0]
    return {"hosts": hosts, "lease": held, "leave": left, "spaces": host.spaces()}


@case
def join_again_and_elsewhere(cluster):
    host = cluster.host(1)
    wait(cluster, host.join())
    return {"again": wait(cluster, host.join()), "another id": wait(cluster, host.join(2)), "spaces": host.spaces()}


@case
def join_an_id_in_use(cluster):
    one, two = cluster.host(1), cluster.host(2)
    wait(cluster, one.join())
    cluster.go(5)
    renewed(cluster, 1)
    answer = two.join(1)
    codes = wait(cluster, answer)
    return {
        "code": codes,
        "takes": Seconds(answer.took, 5, 170, 12),
        "spaces": two.spaces(),
        "owner's generation": cluster.renewal(1)[0],
        "owner": one.spaces(),
    }


@case
def leave_and_join_again(cluster):
    one, _ = joined(cluster)
    answer = one.leave()
    gone = cluster.until(lambda: one.spaces() == [], 60)
    codes = wait(cluster, answer)
    again = one.join()
    codes += wait(cluster, again)
    return {
        "codes": codes,
        "status": one.status()[0],
        "left after": Seconds(gone, 0, 6),
        "join takes": Seconds(again.took, 20.5, 24),
        "generation": cluster.renewal(1)[0],
    }


@case
def a_host_that_left_is_free(cluster):
    one, two = joined(cluster)
    last_seen(cluster, 1, 2)
    one.leave()
    cluster.until(lambda: one.spaces() == [], 60)
    cluster.until(lambda: two.flags().get(1) != LIVE, 60)
    return {"flag": two.flags().get(1), "ids": standing(cluster, 1), "listed": sorted(two.flags())}


def said_by_number(cluster, host, host_id):
    """Once the list leaves it out."""
    cluster.until(lambda: not standing(cluster, host_id)[1], 60)
    cluster.until(lambda: host_id not in host.flags(), 60)
    return host.asked_for(host_id)


@case
def a_host_that_left_is_told_by_its_number(cluster):
    """In the generation of the lease that its end could not give back: nothing that held it is left."""
    one, two = joined(cluster)
    never, alive = two.asked_for(7), two.asked_for(1)
    taken(cluster, one)
    last_seen(cluster, 1, 2)
    one.leave()
    said = said_by_number(cluster, two, 1)
    owner = cluster.owner()
    return {
        "never used": never,
        "alive": alive,
        "left": said,
        "holder": one.alive(),
        "record": (owner.host_id, owner.generation),
        "taken by the other": wait(cluster, two.take()),
    }


@case
def a_newcomer_knows_at_once_who_has_left(cluster):
    one = joined(cluster)[0]
    taken(cluster, one)
    one.leave()
    cluster.until(lambda: not standing(cluster, 1)[1], 60)
    three = cluster.host(3)
    codes = wait(cluster, three.join())
    cluster.until(lambda: three.hosts_code() == 0, 20)
    return {"codes": codes, "left": three.asked_for(1), "listed": 1 in three.flags()}


@case
def a_second_life_that_left_says_nothing_of_the_first(cluster):
    """The daemon was killed, another one joined and left: free under another generation than the lease's, and the first
    one's holder runs on."""
    one, two = joined(cluster)
    taken(cluster, one)
    one.kill()
    cluster.go(3)
    one.start()
    codes = wait(cluster, one.join())
    cluster.until(lambda: two.asked_for(1) == [(LIVE, 2)], 60)
    one.leave()
    said = said_by_number(cluster, two, 1)
    owner = cluster.owner()
    return {
        "codes": codes,
        "left": said,
        "holder": one.alive(),
        "record": (owner.host_id, owner.generation),
        "sanlock gives it to the other": wait(cluster, two.take()),
        "holder beside it": one.alive(),
    }


@case
def join_after_the_daemon_died(cluster):
    one, two = joined(cluster)
    renewed(cluster, 1)
    one.kill()
    cluster.go(3)
    one.start()
    again = one.join()
    codes = wait(cluster, again)
    at = cluster.now
    seen = flag_at(cluster, two, 1, LIVE, at)
    return {
        "codes": codes,
        "takes": Seconds(again.took, 20.5, 24),
        "generation": cluster.renewal(1)[0],
        "live": Seconds(seen, 0, 22, 22),
    }


@case
def a_dead_hosts_id_under_another_name(cluster):
    one = cluster.host(1)
    wait(cluster, one.join())
    cluster.go(25)
    renewed(cluster, 1)
    one.kill()
    cluster.go(2)
    two = cluster.host(2, "stranger")
    answer = two.join(1)
    codes = wait(cluster, answer)
    return {"codes": codes, "takes": Seconds(answer.took, 139, 175, 6), "generation": cluster.renewal(1)[0]}


# --- host death -----------------------------------------------------------------------------------------------------


@case
def death_of_a_host(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    seen = last_seen(cluster, 1, 2)
    one.kill()
    at_first = two.flags().get(1)
    fail = flag_at(cluster, two, 1, FAIL, seen)
    dead = flag_at(cluster, two, 1, DEAD, seen)
    return {
        "at first": at_first,
        "fail after": Seconds(fail, 80, 86),
        "dead after": Seconds(dead, 140, 146),
        "holder runs on": one.alive(),
        "record": cluster.owner().host_id,
        "taken": wait(cluster, two.take()),
        "new owner": cluster.owner().host_id,
    }


@case
def an_owner_that_a_newcomer_never_saw_alive(cluster):
    one = cluster.host(1)
    wait(cluster, one.join())
    taken(cluster, one)
    one.kill()
    two = cluster.host(2)
    wait(cluster, two.join())
    at = cluster.now
    cluster.until(lambda: two.flags() != {}, 20)
    first = two.flags().get(1)
    cluster.go(30)
    asked = cluster.now
    answer = two.take()
    dead = flag_at(cluster, two, 1, DEAD, at)
    code = wait(cluster, answer)
    return {
        "flag": first,
        "dead after": Seconds(dead, 139, 165),
        "code": code,
        "granted after": Seconds(cluster.now - asked, 105, 165),
    }


# --- the lease ------------------------------------------------------------------------------------------------------


@case
def the_record(cluster):
    one, two = joined(cluster)
    seen = []

    def look():
        owner = cluster.owner()
        seen.append((owner.host_id, owner.generation, owner.version, owner.timestamp > 0))

    look()
    wait(cluster, one.take())
    look()
    wait(cluster, one.give_back())
    look()
    wait(cluster, two.take())
    look()
    two.crash()
    cluster.until(lambda: cluster.owner().host_id == 0, 10)
    look()
    wait(cluster, one.take())
    look()
    return {"records": seen}


@case
def held_and_given_back(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    refused = two.take("try")
    codes = wait(cluster, refused)
    own = wait(cluster, one.take("second"))[0] == 0
    wait(cluster, one.give_back())
    again = wait(cluster, two.take("try"))
    return {"codes": codes, "refused after": Seconds(refused.took, 0, 3), "own other process": own, "freed": again}


@case
def the_end_of_a_holder(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    one.crash()
    free = cluster.until(lambda: cluster.owner().host_id == 0, 30)
    code = wait(cluster, two.take())
    return {"free after": Seconds(free, 0, 3), "code": code, "owner": cluster.owner().host_id}


@case
def a_dead_owner_is_refused_at_first_and_waited_for_later(cluster):
    """The border lies at 20 s after his renewal was last seen."""
    one, two = joined(cluster)
    taken(cluster, one)
    last_seen(cluster, 1, 2)
    seen = last_seen(cluster, 1, 2)
    one.kill()
    cluster.until(lambda: cluster.now - seen >= 15)
    early = two.take("early")
    cluster.go(3)
    early_done = early.done
    cluster.until(lambda: cluster.now - seen >= 25)
    late = two.take("late")
    cluster.go(20)
    late_done = late.done
    code = wait(cluster, early, late)
    return {
        "at 15 s": (early_done, early.code),
        "at 25 s": late_done,
        "codes": code,
        "granted after": Seconds(cluster.now - seen, 140, 146),
        "owner": cluster.owner().host_id,
    }


@case
def an_owner_that_comes_back_while_he_is_waited_for(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    seen = last_seen(cluster, 1, 2)
    one.stop()
    cluster.until(lambda: cluster.now - seen >= 45)
    answer = two.take()
    cluster.go(5)
    waits = not answer.done
    back = cluster.now
    one.go_on()
    code = wait(cluster, answer)
    return {
        "waits": waits,
        "code": code,
        "refused after": Seconds(cluster.now - back, 0, 8),
        "holder": one.alive(),
        "owner": cluster.owner().host_id,
    }


@case
def a_waiter_that_is_killed_gets_nothing(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    seen = last_seen(cluster, 1, 2)
    one.kill()
    cluster.until(lambda: cluster.now - seen >= 45)
    two.take("first")
    cluster.go(5)
    two.crash("first")
    flag_at(cluster, two, 1, DEAD, seen)
    cluster.go(10)
    return {
        "owner": cluster.owner().host_id,
        "version": cluster.owner().version,
        "then": wait(cluster, two.take("second")),
    }


@case
def a_rejoin_frees_the_lease_while_the_holder_runs(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    one.kill()
    begun = cluster.now
    one.start()
    wait(cluster, one.join())
    answer = two.take()
    code = wait(cluster, answer)
    return {
        "old holder": one.alive(),
        "code": code,
        "after": Seconds(cluster.now - begun, 20, 30),
        "owner": cluster.owner().host_id,
    }


@case
def a_rejoined_host_takes_its_own_lease(cluster):
    one = cluster.host(1)
    wait(cluster, one.join())
    taken(cluster, one)
    one.kill()
    one.start()
    wait(cluster, one.join())
    owner = cluster.owner()
    answer = one.take("new")
    code = wait(cluster, answer)
    return {
        "record before": (owner.host_id, owner.generation),
        "code": code,
        "takes": Seconds(answer.took, 0, 4),
        "generation": cluster.owner().generation,
    }


# --- leaving with a holder ------------------------------------------------------------------------------------------


@case
def leaving_kills_the_holder(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    unused = wait(cluster, one.leave(unused=True))
    cluster.go(3)
    survived = one.alive()
    begun = cluster.now
    one.leave()
    killed = cluster.until(lambda: not one.alive(), 60)
    cluster.until(lambda: one.spaces() == [], 60)
    left = cluster.now - begun
    return {
        "unused": unused,
        "survived that": survived,
        "killed after": Seconds(killed, 0, 5),
        "left after": Seconds(left, 0, 8),
        "record": cluster.owner().host_id,
        "next": wait(cluster, two.take()),
    }


# --- the daemon stands still ----------------------------------------------------------------------------------------


@case
def a_daemon_that_stands_still_for_a_minute(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    seen = last_seen(cluster, 1, 2)
    one.stop()
    cluster.until(lambda: cluster.now - seen >= 55)
    meanwhile = two.flags().get(1)
    one.go_on()
    back = cluster.now
    before = cluster.renewal(1)
    cluster.until(lambda: cluster.renewal(1) != before, 60)
    renews = cluster.now - back
    cluster.go(30)
    return {
        "flag": meanwhile,
        "renews after": Seconds(renews, 0, 5),
        "holder": one.alive(),
        "spaces": one.spaces(),
        "then": two.flags().get(1),
        "generation": cluster.renewal(1)[0],
    }


@case
def a_daemon_that_stands_still_for_too_long(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    seen = last_seen(cluster, 1, 2)
    one.stop()
    fail = flag_at(cluster, two, 1, FAIL, seen)
    cluster.until(lambda: cluster.now - seen >= 105)
    alive = one.alive()
    one.go_on()
    ended = cluster.until(lambda: not one.alive(), 60)
    cluster.until(lambda: one.spaces() == [], 60)
    cluster.go(3)
    return {
        "fail after": Seconds(fail, 80, 86),
        "holder meanwhile": alive,
        "holder ends after": Seconds(ended, 0, 5),
        "ids": standing(cluster, 1),
        "record": cluster.owner().host_id,
    }


@case
def a_holder_that_ends_while_its_daemon_stands_still(cluster):
    one, two = joined(cluster)
    taken(cluster, one)
    last_seen(cluster, 1, 2)
    one.stop()
    cluster.go(2)
    one.crash()
    cluster.go(20)
    record = cluster.owner().host_id
    one.go_on()
    free = cluster.until(lambda: cluster.owner().host_id == 0, 60)
    return {"record": record, "free after": Seconds(free, 0, 5), "next": wait(cluster, two.take())}


# --- the storage of one host ----------------------------------------------------------------------------------------


def _away(cluster, mode, seconds):
    """A minute of it: nothing happens."""
    one, two = cluster.host(1), cluster.host(2)
    one.own_way()
    join_apart(cluster, one, two)
    cluster.until(lambda: two.flags() == {1: LIVE, 2: LIVE}, 100)
    taken(cluster, one)
    seen = last_seen(cluster, 1, 2)
    one.storage(mode)
    cluster.until(lambda: cluster.now - seen >= seconds)
    return one, two, seen


def _short(cluster, mode):
    one, two, _ = _away(cluster, mode, 55)
    meanwhile = two.flags().get(1)
    before = cluster.renewal(1)
    one.storage("ok")
    renews = cluster.until(lambda: cluster.renewal(1) != before, 60)
    cluster.go(30)
    return {
        "flag": meanwhile,
        "renews after": Seconds(renews, 0, 15, 12),
        "holder": one.alive(),
        "spaces": one.spaces(),
        "then": two.flags().get(1),
        "record": cluster.owner().host_id,
    }


@with_view
def a_minute_of_storage_errors(cluster):
    return _short(cluster, "error")


@with_view
def a_minute_of_a_hanging_storage(cluster):
    return _short(cluster, "hang")


def _long(cluster, mode):
    one, two, seen = _away(cluster, mode, 0)
    cluster.until(lambda: not one.alive(), 200)
    ended = cluster.now - seen
    cluster.until(lambda: cluster.now - seen >= 95)
    spaces, space = one.spaces(), one.status()[0]
    dead = flag_at(cluster, two, 1, DEAD, seen)
    record = cluster.owner().host_id
    code = wait(cluster, two.take())
    one.storage("ok")
    cluster.until(lambda: one.spaces() == [], 60)
    cluster.go(5)
    return {
        "holder ends after": Seconds(ended, 60, 86),
        "spaces then": spaces,
        "status then": space,
        "dead after": Seconds(dead, 140, 146),
        "record": record,
        "ids": standing(cluster, 1),
        "next": code,
        "owner": cluster.owner().host_id,
    }


@with_view
def storage_errors_for_long(cluster):
    return _long(cluster, "error")


@with_view
def a_storage_that_hangs_for_long(cluster):
    return _long(cluster, "hang")


@with_view
def a_holder_that_is_deaf_to_sigterm(cluster):
    """It is listed as before while sanlock kills; only the age of the renewal tells."""
    one, _, seen = _away(cluster, "error", 0)
    one.deafen()
    cluster.until(lambda: cluster.now - seen >= 95)
    alive, spaces, codes, (space, age, held) = one.alive(), one.spaces(), one.hosts_code(), one.status()
    second = wait(cluster, one.take("second"))[0] == 0
    cluster.until(lambda: not one.alive(), 200)
    ended = cluster.now - seen
    cluster.until(lambda: one.spaces() == [], 60)
    return {
        "meanwhile": (alive, spaces, codes, space, held, second),
        "age of the renewal": Seconds(age, 88, 108),
        "killed after": Seconds(ended, 100, 127),
        "record": cluster.owner().host_id,
        "ids": standing(cluster, 1),
    }


@with_view
def a_holder_that_hangs_in_the_kernel(cluster):
    one, two, seen = _away(cluster, "hang", 0)
    one.touch_storage()
    dead = flag_at(cluster, two, 1, DEAD, seen)
    alive, spaces, (space, _, held) = one.alive(), one.spaces(), one.status()
    one.storage("ok")
    cluster.until(lambda: not one.alive(), 30)
    cluster.until(lambda: one.spaces() == [], 60)
    cluster.go(5)
    return {
        "dead after": Seconds(dead, 140, 146),
        "holder then": alive,
        "spaces then": (spaces, space, held),
        "record": cluster.owner().host_id,
        "ids": standing(cluster, 1),
        "next": wait(cluster, two.take()),
    }


@with_view
def the_storage_is_back_while_a_deaf_holder_is_being_killed(cluster):
    """The host renews again and is alive for all others, and keeps the lease as long as the process is there: SIGTERM
    goes on, SIGKILL does not come."""
    one, two, seen = _away(cluster, "error", 0)
    one.deafen()
    cluster.until(lambda: cluster.now - seen >= 95)
    flag = two.flags().get(1)
    one.storage("ok")
    cluster.until(lambda: two.flags().get(1) == LIVE, 60)
    cluster.go(60)
    space, age, held = one.status()
    meanwhile = (one.alive(), one.spaces(), space, held, two.flags().get(1), cluster.owner().host_id)
    refused = wait(cluster, two.take())
    one.hear()
    ended = cluster.until(lambda: not one.alive(), 60)
    cluster.until(lambda: one.spaces() == [], 60)
    return {
        "flag": flag,
        "meanwhile": meanwhile,
        "age of the renewal": Seconds(age, 0, 25, 25),
        "others": refused,
        "ends after": Seconds(ended, 0, 5),
        "record": cluster.owner().host_id,
        "ids": standing(cluster, 1),
    }


@with_view
def the_storage_is_back_when_the_kernel_lets_a_killed_holder_go(cluster):
    one, _, seen = _away(cluster, "hang", 0)
    one.touch_storage()
    cluster.until(lambda: cluster.now - seen >= 95)
    alive = one.alive()
    one.storage("ok")
    ended = cluster.until(lambda: not one.alive(), 60)
    cluster.until(lambda: one.spaces() == [], 60)
    return {
        "holder": alive,
        "ends after": Seconds(ended, 0, 5),
        "record": cluster.owner().host_id,
        "ids": standing(cluster, 1),
    }


@with_view
def a_holder_that_ends_while_its_storage_fails(cluster):
    one, two, _ = _away(cluster, "error", 5)
    one.crash()
    cluster.go(20)
    record = cluster.owner().host_id
    one.storage("ok")
    cluster.go(45)
    return {"record": record, "then": cluster.owner().host_id, "spaces": one.spaces(), "flag": two.flags().get(1)}


@with_view
def a_holder_that_ends_while_its_storage_hangs(cluster):
    one, two, _ = _away(cluster, "hang", 5)
    one.crash()
    cluster.go(30)
    record = cluster.owner().host_id
    one.storage("ok")
    cluster.go(45)
    return {"record": record, "then": cluster.owner().host_id, "spaces": one.spaces(), "flag": two.flags().get(1)}


@with_view
def a_record_that_could_not_be_given_back(cluster):
    """While its host lives nobody else gets the lease; a holder of that host does, and its end clears the record."""
    one, two, _ = _away(cluster, "error", 5)
    one.crash()
    cluster.go(20)
    one.storage("ok")
    cluster.go(45)
    left = cluster.owner()
    refused = wait(cluster, two.take("early"))
    own = wait(cluster, one.take("next"))
    again = cluster.owner()
    one.crash("next")
    free = cluster.until(lambda: cluster.owner().host_id == 0, 30)
    return {
        "left": (left.host_id, left.generation),
        "another host": refused,
        "its own": own,
        "under": (again.host_id, again.generation),
        "free after": Seconds(free, 0, 5),
        "then": wait(cluster, two.take("late")),
        "owner": cluster.owner().host_id,
    }


@with_view
def a_release_that_hung_comes_when_another_has_the_lease(cluster):
    one, two, seen = _away(cluster, "hang", 5)
    one.crash()
    flag_at(cluster, two, 1, DEAD, seen)
    code = wait(cluster, two.take())
    record = cluster.owner()
    one.storage("ok")
    cluster.go(60)
    after = cluster.owner()
    return {
        "next": code,
        "owner": record.host_id,
        "then": (after.host_id, after.version - record.version),
        "spaces": one.spaces(),
        "ids": standing(cluster, 1),
        "flag": two.flags().get(1),
    }


@with_view
def a_lease_that_is_given_back_while_the_storage_hangs(cluster):
    """By a process that hangs as well: sanlock counts it no more, and another host takes the lease beside it."""
    one, two, seen = _away(cluster, "hang", 5)
    one.touch_storage()
    one.give_back()
    at_once = cluster.until(lambda: one.status()[2] == 0, 30)
    record = cluster.owner().host_id
    cluster.until(lambda: cluster.now - seen >= 95)
    spaces, space = one.spaces(), one.status()[0]
    dead = flag_at(cluster, two, 1, DEAD, seen)
    code = wait(cluster, two.take())
    beside = one.alive()
    after = cluster.owner()
    one.storage("ok")
    cluster.until(lambda: one.spaces() == [], 60)
    cluster.go(5)
    return {
        "not held after": Seconds(at_once, 0, 10),
        "record": record,
        "spaces then": (spaces, space),
        "dead after": Seconds(dead, 140, 146),
        "next": code,
        "beside it": beside,
        "owner": after.host_id,
        "ids": standing(cluster, 1),
        "record then": (cluster.owner().host_id, cluster.owner().version - after.version),
    }


@with_view
def a_lease_cannot_be_taken_while_the_storage_fails(cluster):
    one, two = cluster.host(1), cluster.host(2)
    one.own_way()
    join_apart(cluster, one, two)
    cluster.go(30)
    renewed(cluster, 1)
    one.storage("error")
    answer = one.take()
    wait(cluster, answer)
    return {"granted": answer.code == 0, "after": Seconds(answer.took, 0, 15, 12), "record": cluster.owner().host_id}


@with_view
def a_join_while_the_storage_fails(cluster):
    one, two = cluster.host(1), cluster.host(2)
    one.own_way()
    wait(cluster, two.join())
    one.storage("error")
    answer = one.join()
    wait(cluster, answer)
    return {"joined": answer.code == 0, "spaces": one.spaces()}


@with_view
def a_leave_while_the_storage_fails(cluster):
    one, two = cluster.host(1), cluster.host(2)
    one.own_way()
    join_apart(cluster, one, two)
    renewed(cluster, 1)
    one.storage("error")
    one.leave()
    cluster.until(lambda: one.spaces() == [], 60)
    return {"ids": standing(cluster, 1)}
