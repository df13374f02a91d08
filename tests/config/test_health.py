"""The health page's address, from what hosted-engine.conf calls the engine."""

import pytest

from ovirt_he_ha.broker.monitors.health_page import checked_url
from ovirt_he_ha.config.health import HEALTH_PATH, health_url


@pytest.mark.parametrize(
    ("fqdn", "host"),
    [
        ("engine.test", "engine.test"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
    ],
)
def test_the_page_of_a_name_and_of_an_address(fqdn: str, host: str) -> None:
    parts = checked_url(health_url(fqdn))
    assert (parts.scheme, parts.hostname, parts.port, parts.path) == ("http", host, None, HEALTH_PATH)
