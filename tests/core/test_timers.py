"""The table of durations: sound as delivered, and every range and rule is really checked."""

from dataclasses import fields, replace

import pytest

from ovirt_he_ha.core.timers import _RULES, Timers, announced_bounds


def test_the_defaults_are_sound():
    assert Timers().check() == ()


@pytest.mark.parametrize("row", [f.name for f in fields(Timers)])
def test_each_row_has_a_checked_range(row):
    field = next(f for f in fields(Timers) if f.name == row)
    for outside in (field.metadata["low"] - 1, field.metadata["high"] + 1):
        value = (outside,) if isinstance(field.default, tuple) else outside
        assert any(text.startswith(f"{row} is") for text in replace(Timers(), **{row: value}).check())


def test_an_empty_sequence_is_out_of_range():
    assert any("crash_backoff" in text for text in replace(Timers(), crash_backoff=()).check())


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"cycle": 15.0, "collect_deadline": 15.0, "liveness_limit": 30.0}, "cycle + collect_deadline < liveness"),
        ({"cycle": 15.0, "slot_read_well": 15.0, "liveness_limit": 30.0}, "slot_read_well + cycle < liveness"),
        ({"publish_keepalive": 15.0, "io_deadline": 9.0, "liveness_limit": 34.0}, "publish_keepalive + io_deadline"),
        ({"publish_keepalive": 15.0, "cycle": 5.0}, "publish_keepalive <= cycle"),
        ({"rpc_deadline": 6.0}, "rpc_deadline <= collect_deadline"),
        ({"io_deadline": 10.0}, "io_deadline < slot_read_well"),
        ({"facts_stale": 15.0}, "slot_read_well + io_deadline < facts_stale"),
        ({"facts_stale": 60.0}, "facts_stale < liveness_limit"),
        ({"slot_read_alert": 8.0, "slot_read_well": 7.0}, "slot_read_alert <= slot_read_well"),
        ({"lease_poll": 2.0, "owner_audit": 1.0}, "lease_poll <= owner_audit"),
        ({"guard_poll": 2.0, "owner_audit": 3.0}, "2 guard_poll <= owner_audit"),
        ({"crash_backoff": (60.0, 30.0)}, "crash_backoff never"),
        ({"migration_retry": (60.0, 30.0)}, "migration_retry never"),
        ({"rank_step": 5.0}, "paused_kill < rank_step"),
        ({"own_migration_pause": 5.0}, "paused_kill < own_migration_pause"),
        ({"away_limit": 30.0}, "own_migration_pause < away_limit"),
        ({"rank_step": 11.0}, "slot_read_alert + cycle <= rank_step"),
        ({"destination_ack": 11.0}, "slot_read_alert + cycle <= destination_ack"),
        ({"score_zero_after_crash": 30.0}, "slot_read_well + cycle + rank_step <= score_zero"),
        ({"last_resort": 75.0}, "liveness_limit + rank_step < last_resort"),
        (
            {"host_shutdown": 60.0, "host_shutdown_stop": 31.0},
            "host_shutdown_stop + power_off_deadline <= host_shutdown",
        ),
        ({"hung_health": 200.0, "hung_alone": 150.0}, "hung_health < hung_alone"),
        ({"slot_read_well": 700.0}, "slot_read_well < full_scan"),
        ({"start_backoff_first": 700.0}, "start_backoff_first <= start_backoff_max"),
        ({"lost_race_retry": 700.0}, "lost_race_retry <= start_backoff_max"),
        ({"engine_poll": 15.0, "health_timeout": 20.0, "hung_health": 35.0}, "engine_poll + health_timeout"),
        ({"crash_second_delay": 60.0, "crash_window": 60.0}, "crash_second_delay < crash_window"),
        ({"down_hold": 10.0}, "down_hold < 10 s"),
        ({"hung_min_uptime": 601.0}, "hung_min_uptime <= starting_limit"),
        ({"healthy_reset": 599.0}, "crash_window <= healthy_reset"),
        ({"probe_timeout": 4.0, "network_round": 6.0}, "2 + probe_timeout < network_round"),
        ({"supervise_restart": 5.0}, "supervise_restart < 5 s"),
        ({"network_round": 11.0}, "network_round + cycle <= 20 s"),
        ({"acpi_stop": 51.0}, "network_round + 2 cycle"),
        ({"hung_health": 86.0}, "hung_health + engine_poll + health_timeout + cycle + acpi_stop"),
        ({"hung_alone": 266.0}, "hung_alone + engine_poll"),
    ],
)
def test_each_rule_between_rows_can_fail(changes, rule):
    assert any(text.startswith(rule) for text in replace(Timers(), **changes).check())


def test_back_offs():
    t = Timers()
    assert [t.start_wait(n) for n in (0, 1, 2, 3, 6, 7, 8, 10_000)] == [0, 10, 20, 40, 320, 600, 600, 600]
    assert [t.crash_wait(n) for n in (-1, 0, 1, 2, 3, 4, 99)] == [30, 30, 60, 120, 300, 300, 300]
    assert [t.migration_wait(n) for n in (0, 1, 2, 3)] == [30, 30, 60, 60]
    assert t.migration_deadline(4096) == 120 + 128


def test_announced_bounds_at_the_default_and_faster():
    bounds = announced_bounds()
    assert bounds["host-loss"] == bounds["sanlock-kill"] == bounds["storage-loss"] == 162
    assert bounds["cold"] == 112
    assert announced_bounds(1, 60)["host-loss"] == 72
    assert announced_bounds(2, 30)["host-loss"] == 52
    assert (bounds["vm-crash"], bounds["hung-engine"], bounds["hung-engine-alone"]) == (10, 120, 300)
    assert (bounds["network-loss"], bounds["agent-kill"], bounds["libvirtd-kill"]) == (90, 5, 5)


def test_every_rule_has_a_case_above():
    """A rule without a case that breaks it could be a rule that never fires."""
    marks = test_each_rule_between_rows_can_fail.pytestmark
    cases = [rule for mark in marks for _, rule in mark.args[1]]
    assert [text for text, _ in _RULES if not any(text.startswith(rule) for rule in cases)] == []
