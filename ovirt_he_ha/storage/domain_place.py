"""Where the storage domain of a configuration lies on this host."""

from typing import Optional

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.storage.block_domain import BlockDomain, load_record
from ovirt_he_ha.storage.domain_files import DomainFiles
from ovirt_he_ha.storage.local import LocalDomain
from ovirt_he_ha.storage.mount_kinds import MOUNTED_KINDS, mount_plan
from ovirt_he_ha.storage.provider import Domain

BLOCK_KINDS = ("iscsi", "fc")


def domain_of(conf: HostedEngineConf, paths: Optional[HostPaths] = None, files: Optional[DomainFiles] = None) -> Domain:
    """Where this configuration's domain lies, connected or not: no look at the storage. ``files`` as for LocalDomain.
    Raises ConfigError, and DomainProblem ``not-connected`` for a block domain of which nothing is known before root has
    connected it."""
    paths = paths or HostPaths.from_env()
    if conf.domain_type == "local":
        return LocalDomain(conf.storage, conf.sd_uuid, files)
    if conf.domain_type in MOUNTED_KINDS:
        return LocalDomain(mount_plan(conf, paths).target, conf.sd_uuid, files)
    if conf.domain_type in BLOCK_KINDS:
        record = load_record(paths.storage_record, conf.sd_uuid)
        return BlockDomain(record, str(paths.root / "dev"), files)
    expected = "one of local, " + ", ".join((*MOUNTED_KINDS, *BLOCK_KINDS))
    raise ConfigError(paths.hosted_engine_conf, "domainType", expected, repr(conf.domain_type))
