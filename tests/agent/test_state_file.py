import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovirt_he_ha.agent.state_file import StateFile, StateFileError
from ovirt_he_ha.core.model import Budgets

BUDGETS = Budgets(start_failures=3, next_start_at=1040.0, crashes=(900.0, 950.0), moves=(10.0,), healthy_since=None)


def test_budgets_come_back_on_the_same_boot(tmp_path: Path) -> None:
    path = tmp_path / "agent-state.json"
    assert StateFile(path, "boot-1").save(BUDGETS)
    assert StateFile(path, "boot-1").load(1000.0) == BUDGETS


def test_clocks_of_another_boot_or_another_scale_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "agent-state.json"
    StateFile(path, "boot-1").save(BUDGETS)
    assert StateFile(path, "boot-2").load(1000.0) == Budgets()
    assert StateFile(path, "boot-1", scale=10.0).load(1000.0) == Budgets()


def test_no_file_is_a_fresh_start(tmp_path: Path) -> None:
    assert StateFile(tmp_path / "none.json", "boot-1").load(0.0) == Budgets()


def test_it_is_written_only_when_something_changed(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "agent-state.json", "boot-1")
    assert state.save(BUDGETS)
    assert not state.save(BUDGETS)
    assert state.save(Budgets())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2}',
        b'{"version": 1, "boot_id": "boot-1", "scale": 1.0, "budgets": {"surprise": 1}}',
        b'{"version": 1, "boot_id": "boot-1", "scale": 1.0, "budgets": {"crashes": 5}}',
        b'{"version": 1, "boot_id": "boot-1", "scale": 1.0, "budgets": {"start_failures": "many"}}',
    ],
)
def test_nonsense_is_named_with_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent-state.json"
    path.write_bytes(content)
    with pytest.raises(StateFileError) as e:
        StateFile(path, "boot-1").load(0.0)
    assert e.value.path == path
    assert path.read_bytes() == content


def test_a_clock_from_the_future_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent-state.json"
    StateFile(path, "boot-1").save(Budgets(next_start_at=99_999.0))
    with pytest.raises(StateFileError):
        StateFile(path, "boot-1").load(1000.0)


@given(st.binary(max_size=300))
def test_any_bytes_give_budgets_or_a_named_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("state") / "agent-state.json"
    path.write_bytes(content)
    try:
        StateFile(path, "boot-1").load(0.0)
    except StateFileError as e:
        assert str(path) in str(e)


def test_the_file_is_json_that_an_administrator_can_read(tmp_path: Path) -> None:
    path = tmp_path / "agent-state.json"
    StateFile(path, "boot-1").save(BUDGETS)
    assert json.loads(path.read_bytes())["budgets"]["start_failures"] == 3
