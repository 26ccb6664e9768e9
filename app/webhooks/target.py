"""Where a webhook may point: what its URL may look like, and which addresses may stand behind it."""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

import httpx

PORTS = {"http": 80, "https": 443}
LARGEST_PORT = 65535
GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
SIX_TO_FOUR = IPv6Network("2002::/16")


class UnusableTarget(Exception):
    """Nothing is sent there."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Target(NamedTuple):
    """A URL in the parts that a connection needs, each as it goes over the wire."""

    scheme: bytes
    host: bytes
    port: int
    path: bytes
    authority: bytes
    """What the Host header says."""


def parse(url: str, *, private: bool) -> Target:
    """Take a URL apart. Plain http only where `private` addresses are allowed. Raises UnusableTarget."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UnusableTarget(f"is not a URL: {error}", "invalid_url") from None
    if parsed.scheme not in PORTS or not parsed.raw_host:
        raise UnusableTarget("must be a URL such as https://example.org/hook", "invalid_url")
    if parsed.scheme == "http" and not private:
        raise UnusableTarget("must begin with https://: what is sent would be readable on its way", "https_only")
    if parsed.userinfo or "#" in url:
        raise UnusableTarget("must hold no user name, password or fragment", "invalid_url")
    port = PORTS[parsed.scheme] if parsed.port is None else parsed.port
    if not 0 < port <= LARGEST_PORT:
        raise UnusableTarget(f"must have a port from 1 to {LARGEST_PORT}", "invalid_url")
    return Target(parsed.raw_scheme, parsed.raw_host, port, parsed.raw_path, parsed.netloc)


NOT_FOR_HOSTS = (ip_network("192.0.0.0/24"), ip_network("192.88.99.0/24"))
"""Protocol assignments and 6to4 relays, parts of which older Pythons take for global."""


def addresses(target: Target, *, private: bool) -> list[str]:
    """Look up the host; it blocks. Every address must be global unless `private`. Raises UnusableTarget."""
    try:
        # Bytes, because text is encoded once more, and then fails on a label that is too long.
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError:
        raise UnusableTarget("names a host that cannot be found", "host_not_found") from None
    known = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not private and not all(is_global(address) for address in known):
        raise UnusableTarget("points at an address that is not on the public internet", "address_not_allowed")
    return known


def is_global(address: str) -> bool:
    """Whether an address is one host's on the public internet, as IANA's registries of special addresses say."""
    parsed = _inner(ip_address(address))
    if isinstance(parsed, IPv6Address) and parsed not in GLOBAL_UNICAST:
        return False
    if any(parsed in network for network in NOT_FOR_HOSTS):
        return False
    return parsed.is_global and not parsed.is_multicast


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address leads to, where it is such a one."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in SIX_TO_FOUR:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return address.ipv4_mapped or address
