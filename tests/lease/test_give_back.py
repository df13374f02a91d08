"""When this host's record on the VM's lease must stay. That it is cleared otherwise is shown in tests/contract."""

from typing import Any, List

import pytest

from ovirt_he_ha.core.model import LeaseId
from ovirt_he_ha.lease.give_back import give_back

LEASE = LeaseId("sd", "vol", "/sd/vol.lease", 0)


class Untouched:
    """A sanlock that nobody may ask."""

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"sanlock was asked: {name}")


def unreadable() -> List[object]:
    raise OSError(24, "too many open files")


@pytest.mark.parametrize("processes", [lambda: [42], unreadable])
def test_s1_beside_a_process_of_the_vm_or_where_that_is_not_known_the_record_stays(processes: Any) -> None:
    """Others are refused the lease by that record alone: sanlock does not know a process that outlived its guard."""
    assert not give_back(LEASE, 1, processes, api=Untouched())  # type: ignore[arg-type]
