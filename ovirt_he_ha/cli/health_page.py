"""The engine's health page, asked once, with a deadline for the whole of it."""

import http.client
import ssl
import threading
import urllib.parse
from typing import List, Optional, Tuple

SECONDS = 20.0  # wall
_GOOD = b"DB Up"
_MOST = 4096  # bytes looked at; the good answer has 31


def ask(url: str, ca_file: str = "", seconds: Optional[float] = None) -> str:
    """Empty if the first line of the page contains ``DB Up``, else why not. Never raises; returns within
    ``seconds``."""
    limit = SECONDS if seconds is None else seconds
    result: List[str] = []
    # A server that sends one byte per second resets every socket time-out: only a thread can be left behind for it.
    worker = threading.Thread(target=lambda: result.append(_ask(url, ca_file, limit)), daemon=True)
    worker.start()
    worker.join(limit)
    return result[0] if result else f"no answer from {url} within {limit:g} s"


def _ask(url: str, ca_file: str, seconds: float) -> str:
    connection: Optional[http.client.HTTPConnection] = None
    try:
        connection, target = _open(url, ca_file, seconds)
        connection.request("GET", target, headers={"Connection": "close"})
        response = connection.getresponse()
        line = response.read(_MOST).split(b"\n", 1)[0]
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{url}: {type(error).__name__}: {error}"
    finally:
        if connection is not None:
            connection.close()
    if response.status != 200:
        return f"{url} answers with HTTP status {response.status}"
    if _GOOD not in line:
        return (
            f"{url} answers {line[:60].decode('ascii', 'backslashreplace')!r}, expected a line with {_GOOD.decode()!r}"
        )
    return ""


def _open(url: str, ca_file: str, seconds: float) -> Tuple[http.client.HTTPConnection, str]:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("expected http://host/path or https://host/path")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port or 80, timeout=seconds), target
    context = ssl.create_default_context(cafile=ca_file or None)
    return http.client.HTTPSConnection(host, parts.port or 443, timeout=seconds, context=context), target
