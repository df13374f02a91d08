"""Where the engine's health page is, unless agent.conf says otherwise."""

HEALTH_PATH = "/ovirt-engine/services/health"


def health_url(fqdn: str) -> str:
    """``fqdn``: a name or an address, an IPv6 one with or without brackets."""
    host = f"[{fqdn}]" if ":" in fqdn and not fqdn.startswith("[") else fqdn
    return f"http://{host}{HEALTH_PATH}"
