"""Where the model answers: `ANTHROPIC_BASE_URL`, checked."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from host.errors import UserError
from host.model import Endpoint

DEFAULT_URL: Final = "https://api.anthropic.com"
PORTS: Final = {"https": 443, "http": 80}


def endpoint(base_url: str | None) -> Endpoint:
    """The endpoint that this URL names; without one, Anthropic's. A path is kept: servers live beneath prefixes."""
    text = DEFAULT_URL if base_url is None else base_url.strip()
    # urlsplit silently drops tabs and line ends; what it is given here has none.
    if not re.fullmatch(r"[!-~]+", text):
        raise _error("holds a blank, or a character that no URL has")
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise _error("names no valid host and port") from None
    if url.scheme not in PORTS:
        raise _error("does not begin with https:// or http://")
    if "@" in url.netloc:
        # Not repeated in any message: what stands before the @ is a password.
        raise _error("holds a user name or a password", "put the key into ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN")
    if url.query or url.fragment or "?" in text or "#" in text:
        raise _error("holds a query or a fragment")
    if not host or not _is_host(host) or ("[" in url.netloc) != (":" in host):
        raise _error("names no valid host and port")
    port = PORTS[url.scheme] if port is None else port
    if not 1 <= port <= 65535:
        raise _error("names no valid host and port")
    shown = f"[{host}]" if ":" in host else host
    where = shown if port == PORTS[url.scheme] else f"{shown}:{port}"
    return Endpoint(f"{url.scheme}://{where}{url.path.rstrip('/')}", host, port, tls=url.scheme == "https")


def is_here(endpoint: Endpoint) -> bool:
    """Whether it is this machine, as far as its address says."""
    try:
        return ipaddress.ip_address(endpoint.host).is_loopback
    except ValueError:
        return endpoint.host == "localhost"


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            return "%" not in host and bool(ipaddress.IPv6Address(host))
        except ValueError:
            return False
    return len(host) <= 253 and re.fullmatch(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", host) is not None


def _error(what: str, hint: str = "write https://host, or http://host:port for a server of your own") -> UserError:
    return UserError(f"ANTHROPIC_BASE_URL {what}", hint)
