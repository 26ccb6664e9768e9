"""Where a webhook may point: the form of its URL, and the addresses that its host may have."""

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
    """A URL or an address to which nothing is sent."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Target(NamedTuple):
    """The parts of a URL that a connection needs, as they are sent over the wire."""

    scheme: bytes
    host: bytes
    port: int
    path: bytes
    authority: bytes
    """The value of the Host header."""


def parse(url: str, *, private: bool) -> Target:
    """Split a URL into its parts. Plain http is allowed only with `private` addresses. Raises UnusableTarget."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UnusableTarget(f"is not a URL: {error}", "invalid_url") from None
    if parsed.scheme not in PORTS or not parsed.raw_host:
        raise UnusableTarget("must be a URL such as https://example.org/hook", "invalid_url")
    if parsed.scheme == "http" and not private:
        raise UnusableTarget("must begin with https://, so that nobody can read the events on their way", "https_only")
    if parsed.userinfo or "#" in url:
        raise UnusableTarget("must not have a user name, password or fragment", "invalid_url")
    port = PORTS[parsed.scheme] if parsed.port is None else parsed.port
    if not 0 < port <= LARGEST_PORT:
        raise UnusableTarget(f"must have a port from 1 to {LARGEST_PORT}", "invalid_url")
    return Target(parsed.raw_scheme, parsed.raw_host, port, parsed.raw_path, parsed.netloc)


NOT_FOR_HOSTS = (ip_network("192.0.0.0/24"), ip_network("192.88.99.0/24"))
"""Protocol assignments and 6to4 relays. Older Pythons treat parts of them as global."""


def addresses(target: Target, *, private: bool) -> list[str]:
    """Look up the host; it blocks. Every address must be global unless `private`. Raises UnusableTarget."""
    try:
        # Bytes, because text is encoded once more, and then fails on a label that is too long.
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError:
        raise _unusable_host(private=private) from None
    known = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not private and not all(is_global(address) for address in known):
        raise _unusable_host(private=private)
    return known


def is_global(address: str) -> bool:
    """Whether an address belongs to one host on the public internet, by IANA's registries of special addresses."""
    parsed = _inner(ip_address(address))
    if isinstance(parsed, IPv6Address) and parsed not in GLOBAL_UNICAST:
        return False
    if any(parsed in network for network in NOT_FOR_HOSTS):
        return False
    return parsed.is_global and not parsed.is_multicast


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address in an IPv6 address, if there is one."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in SIX_TO_FOUR:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return address.ipv4_mapped or address


def _unusable_host(*, private: bool) -> UnusableTarget:
    # One answer for an unknown host and for an internal one, which tells nobody what hosts the internal network has.
    where = "an address" if private else "an address on the public internet"
    return UnusableTarget(f"must have a host with {where}", "host_not_allowed")
