"""Which network a request came from, as a hash: enough to count for one, no address to lose.

The hash is made with a secret of this server, so that who steals the table can't try addresses.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

V4_BITS, V6_BITS = 24, 48
"""What one household, school or small provider's customer has."""


def block(request: Request) -> str:
    """Return the hash of the network that a request came from; empty when that is not known."""
    # As rate limits tell people apart: through a proxy where one is named in the settings.
    return hashed(BaseThrottle().get_ident(request))


def hashed(text: str) -> str:
    """Return the hash of the network of an address; empty for what is none."""
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    bits = V4_BITS if address.version == 4 else V6_BITS
    network = ipaddress.ip_network((address, bits), strict=False)
    key: bytes = settings.HANDCAR_CHECKING_KEY
    return hmac.new(key, f"network {network}".encode(), hashlib.sha256).hexdigest()
