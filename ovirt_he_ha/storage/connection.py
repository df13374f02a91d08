"""Who connects the storage domain of this host. For root alone, on the command line or in the one-shot unit: no daemon
imports this."""

from typing import Optional

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.storage.command import Commands
from ovirt_he_ha.storage.file_provider import DirectoryProvider, MountProvider, Verifier, daemons_user
from ovirt_he_ha.storage.mount_kinds import MOUNTED_KINDS
from ovirt_he_ha.storage.provider import Provider
from ovirt_he_ha.storage.vdsm_provider import VdsmProvider, vdsm_runs


def provider_for(
    conf: HostedEngineConf, paths: HostPaths, accept_copy: bool = False, commands: Optional[Commands] = None
) -> Provider:
    """``accept_copy``: this copy of the domain is the right one, whatever was known before. Raises ConfigError."""
    commands = commands or Commands()
    is_root = daemons_user() is not None
    if conf.domain_type == "local":
        return DirectoryProvider(conf, Verifier(conf, paths, accept_copy, None, remember=is_root))
    if conf.domain_type in MOUNTED_KINDS:
        verifier = Verifier(conf, paths, accept_copy, daemons_user(), remember=is_root)
        if vdsm_runs(paths.root / "proc"):
            return VdsmProvider(conf, paths, verifier)
        return MountProvider(conf, paths, commands, verifier)
    raise ConfigError(paths.hosted_engine_conf, "domainType", "a type that can be connected", repr(conf.domain_type))
