"""The stand-in watchdog devices: one per host, petted by the host's own wdmd; what would reset a real host powers ours
off."""

from ovirt_he_ha.lab.layout import LabHost


def set_present(host: LabHost, present: bool) -> None:
    """Whether the host has a watchdog device, from its next power-on. Without one it has no wdmd, and its sanlock runs
    with ``-w 0``."""
    marker = host.directory / "no-watchdog"
    marker.parent.mkdir(parents=True, exist_ok=True)
    if present:
        marker.unlink(missing_ok=True)
    else:
        marker.touch()


def is_present(host: LabHost) -> bool:
    return not (host.directory / "no-watchdog").exists()
