"""Which addresses may be fetched from: not the private networks of whoever fetches.

A manifest is a stranger's: it must not make a volunteer's machine knock at the router, the
printer or the cloud's metadata of its own network. Names are resolved here, at the moment of
connecting, and the connection goes to the very address that was judged, so neither a redirect
nor a name that resolves anew gets round it. What the server itself stands in is allowed: who
trains in a home network or on one machine names such an address on purpose.

Through a proxy that the system names, it is the proxy that connects: then only addresses that
are written as numbers can be judged.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from enum import Enum
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpcore2
import httpx2

from handcar.errors import Forbidden

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Kind(Enum):
    """Where an address leads, as far as its number tells."""

    PUBLIC = "public"
    PRIVATE = "private"
    OWN = "of this machine itself"
    SPECIAL = "link-local or reserved"


def kind_of(address: Address) -> Kind:
    """Return where an address leads; one that wraps another leads where that one does."""
    address = _unwrapped(address)
    if address.is_loopback or address.is_unspecified:
        return Kind.OWN
    if address.is_link_local or address.is_multicast:
        return Kind.SPECIAL
    if address.is_global:
        return Kind.PUBLIC
    return Kind.PRIVATE if address.is_private else Kind.SPECIAL


def _unwrapped(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


class Reach:
    """What may be fetched from, for those who talk to one server."""

    def __init__(self, server_url: str) -> None:
        self._server = urlsplit(server_url).hostname or ""

    def expect_allowed(self, host: str, address: Address) -> None:
        """Raise Forbidden unless `address`, which `host` resolved to, may be fetched from."""
        if self._is_allowed(address):
            return
        raise Forbidden(
            f"{host} is the address {address}, {kind_of(address).value}: a stranger's data set "
            "may not make this machine fetch from there. It is allowed where the Handcar server "
            "itself has such an address"
        )

    def _is_allowed(self, address: Address) -> bool:
        kind = kind_of(address)
        if kind is Kind.PUBLIC or _unwrapped(address) in self._servers:
            return True
        nearest = {kind_of(one) for one in self._servers}
        # A server with any public address is public: it must not open the way by naming others.
        if not nearest or Kind.PUBLIC in nearest:
            return False
        return kind is Kind.PRIVATE or (kind is Kind.OWN and nearest == {Kind.OWN})

    @cached_property
    def _servers(self) -> frozenset[Address]:
        try:
            return frozenset(map(_unwrapped, resolve(self._server, None)))
        except OSError:
            return frozenset()


def resolve(host: str, port: int | None) -> list[Address]:
    """Return the addresses of a host, in the system's order of preference. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host[:100]!r} is no host's name") from error
    texts = (str(one[4][0]).partition("%")[0] for one in found)
    return list(dict.fromkeys(map(ipaddress.ip_address, texts)))


def client(
    reach: Reach, *, socket_options: Iterable[Any] | None = None, **options: Any
) -> httpx2.Client:
    """Return a client that connects only where it may; the other options are httpx2's."""
    if getproxies():
        hooks = {"request": [lambda request: _expect_number_allowed(reach, request)]}
        return httpx2.Client(event_hooks=hooks, **options)
    return httpx2.Client(transport=_Transport(reach, socket_options), **options)


def _expect_number_allowed(reach: Reach, request: httpx2.Request) -> None:
    host = request.url.host
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return
    reach.expect_allowed(host, address)


class _Transport(httpx2.HTTPTransport):
    """httpx2's own, but for how a name becomes a connection."""

    def __init__(self, reach: Reach, socket_options: Iterable[Any] | None) -> None:
        # Its pool is the one thing that httpx2 lets nobody hand in.
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=5.0,
            network_backend=_Backend(reach),
            socket_options=socket_options,
        )


class _Backend(httpcore2.NetworkBackend):
    """Resolves, judges, and connects to what was judged."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._connect = httpcore2.SyncBackend().connect_tcp

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connect to the first address of a host that answers."""
        fault: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in self._addresses(host, port):
            try:
                return self._connect(str(address), port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                fault = error
        raise fault

    def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            found = resolve(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        for address in found:
            self._reach.expect_allowed(host, address)
        return found
