"""Reading hosted-engine.conf, as far as other programs do."""

from typing import Optional

from ovirt_he_ha.config.files import read_values
from ovirt_he_ha.config.paths import HostPaths

ENGINE = "he_local"  # the type: this host's hosted-engine.conf


class Config:
    """Reads anew at every call. Arguments are ignored."""

    def __init__(self, *_ignored: object, **_more: object) -> None:
        self._path = HostPaths.from_env().hosted_engine_conf

    def get(self, config_type: str, key: str) -> Optional[str]:
        """The value as it is written; None when the key or the whole file is absent. Raises ValueError for another type
        than ENGINE, ConfigError for a file that cannot be read."""
        if config_type != ENGINE:
            raise ValueError(f"type {config_type!r}: expected {ENGINE!r}; HAClient.get_shared_config knows the others")
        return read_values(self._path).get(key) if self._path.exists() else None
