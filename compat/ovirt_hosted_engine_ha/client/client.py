"""What vdsm imports."""

from ovirt_he_ha.client import HAClient, UnsafeError

__all__ = ["HAClient", "UnsafeError"]
