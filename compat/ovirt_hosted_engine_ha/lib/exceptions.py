"""What HAClient raises when the broker does not answer. Both are caught by ``except BrokerConnectionError``."""

from ovirt_he_ha.client.link import BrokerUnavailable as BrokerConnectionError
from ovirt_he_ha.client.socket_errors import BrokerGone as DisconnectionError

__all__ = ["BrokerConnectionError", "DisconnectionError"]
