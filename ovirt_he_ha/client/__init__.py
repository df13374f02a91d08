"""The way to the broker for the agent, the command line and other programs: ``HAClient`` is the door for the latter."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovirt_he_ha.client.ha_client import HAClient as HAClient
    from ovirt_he_ha.client.ha_client import UnsafeError as UnsafeError

__all__ = ["HAClient", "UnsafeError"]


def __getattr__(name: str) -> Any:
    """Loaded when asked for: the agent and the command line start without it."""
    if name in __all__:
        from ovirt_he_ha.client import ha_client

        return getattr(ha_client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
