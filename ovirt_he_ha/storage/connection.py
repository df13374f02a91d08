"""Who connects the storage domain of this host. For root alone, on the command line or in the one-shot unit: no daemon
imports this."""

from typing import Callable, Optional, Tuple

from ovirt_he_ha.config.files import HostedEngineConf
from ovirt_he_ha.config.paths import HostPaths
from ovirt_he_ha.config.text import ConfigError
from ovirt_he_ha.storage.block_provider import BlockProvider
from ovirt_he_ha.storage.block_transport import FcTransport, IscsiTransport, Transport, VdsmTransport
from ovirt_he_ha.storage.command import Commands
from ovirt_he_ha.storage.domain_place import BLOCK_KINDS
from ovirt_he_ha.storage.errors import DomainProblem
from ovirt_he_ha.storage.file_provider import DirectoryProvider, MountProvider, Verifier, daemons_user
from ovirt_he_ha.storage.iscsi import Iscsi
from ovirt_he_ha.storage.iscsi_records import NodeRecords
from ovirt_he_ha.storage.mount_kinds import MOUNTED_KINDS
from ovirt_he_ha.storage.provider import Connected, Provider
from ovirt_he_ha.storage.refusal import CODES, UNVERIFIED, Refusal
from ovirt_he_ha.storage.turns import InTurn, turn
from ovirt_he_ha.storage.vdsm_provider import VdsmProvider, vdsm_runs
from ovirt_he_ha.storage.volumes import VolumeName


def provider_for(
    conf: HostedEngineConf, paths: HostPaths, accept_copy: bool = False, commands: Optional[Commands] = None
) -> Provider:
    """``accept_copy``: this copy of the domain is the right one, whatever was known before. Raises ConfigError."""
    provider = _provider(conf, paths, accept_copy, commands or Commands())
    if daemons_user() is None or isinstance(provider, DirectoryProvider):
        return provider  # which changes nothing
    return InTurn(provider, paths.storage_turn)


def _provider(
    conf: HostedEngineConf,
    paths: HostPaths,
    accept_copy: bool,
    commands: Commands,
    opening: Callable[[], None] = lambda: None,
) -> Provider:
    """``opening()`` is called before the domain becomes reachable by this call."""
    is_root = daemons_user() is not None
    if conf.domain_type == "local":
        return DirectoryProvider(conf, Verifier(conf, paths, accept_copy, None, remember=is_root))
    if conf.domain_type in MOUNTED_KINDS:
        verifier = Verifier(conf, paths, accept_copy, daemons_user(), remember=is_root)
        if vdsm_runs(paths.root / "proc"):
            return VdsmProvider(conf, paths, verifier)
        return MountProvider(conf, paths, commands, verifier, opening=opening)
    if conf.domain_type in BLOCK_KINDS:
        by_vdsm = vdsm_runs(paths.root / "proc")
        transport = VdsmTransport() if by_vdsm else _transport(conf, paths, commands)
        return BlockProvider(conf, paths, commands, transport, daemons_user(), accept_copy, by_vdsm, opening)
    raise ConfigError(paths.hosted_engine_conf, "domainType", "a type that can be connected", repr(conf.domain_type))


def connect(
    conf: HostedEngineConf,
    paths: HostPaths,
    seconds: float,
    accept_copy: bool = False,
    commands: Optional[Commands] = None,
) -> Tuple[Provider, Connected]:
    """Connect, and tell the broker of a copy that must not be joined, or that there is none any more. Raises what a
    provider raises, and ConfigError."""
    refusal = Refusal(paths.storage_refusal)
    if daemons_user() is None:
        provider = provider_for(conf, paths, accept_copy, commands)
        return provider, provider.connect(seconds)
    provider = _provider(conf, paths, accept_copy, commands or Commands(), lambda: refusal.note(UNVERIFIED))
    with turn(paths.storage_turn, seconds) as left:
        try:
            connected = provider.connect(left)
        except DomainProblem as problem:
            if problem.code in CODES:
                refusal.note(str(problem))
            raise
        refusal.clear()
    return provider, connected


def make_volume(
    conf: HostedEngineConf,
    paths: HostPaths,
    name: VolumeName,
    size: int,
    zeroed: int,
    seconds: float,
    force: bool = False,
    commands: Optional[Commands] = None,
) -> bool:
    """Make a logical volume of a block domain that was lost, see BlockProvider; False if it is there. Raises what a
    provider raises, and ConfigError."""
    provider = _provider(conf, paths, False, commands or Commands())
    if not isinstance(provider, BlockProvider):
        raise ConfigError(paths.hosted_engine_conf, "domainType", "one of " + ", ".join(BLOCK_KINDS), conf.domain_type)
    if daemons_user() is None:
        return provider.make_volume(name, size, zeroed, seconds, force)  # which says that it is for root
    with turn(paths.storage_turn, seconds) as left:
        return provider.make_volume(name, size, zeroed, left, force)


def _transport(conf: HostedEngineConf, paths: HostPaths, commands: Commands) -> Transport:
    if conf.domain_type == "fc":
        return FcTransport(paths, commands)
    iscsi = Iscsi(commands, NodeRecords(paths.root), conf.user, conf.password)
    return IscsiTransport(conf, paths, iscsi)
