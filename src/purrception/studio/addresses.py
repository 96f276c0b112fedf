"""Network addresses: their usual spelling, and the clients behind them."""

from __future__ import annotations

import ipaddress


def client_of(address: str) -> str:
    """The client that an address stands for; in IPv6 one client has a whole /64 network of addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return plain_address(address)


def plain_address(address: str) -> str:
    """An address in its usual spelling, with IPv4 inside IPv6 as IPv4; a name stays as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
