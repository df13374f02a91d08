"""Facts about the agent."""

from ovirt_he_ha import __version__ as PACKAGE_VERSION

__all__ = ["PACKAGE_VERSION"]
