"""Network addresses: the client behind one, and the names under which the page is served."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

from purrception.utils.errors import InputError

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?)(:([0-9]{1,5}))?")
Place = tuple[str, int | None]
"""A name and a port; ``None`` where no port is written."""


def client_of(address: str) -> str:
    """The client that an address stands for; in IPv6 one client has a whole /64 network of addresses."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return plain_address(address)


def plain_address(address: str) -> str:
    """An address in its usual spelling, with IPv4 inside IPv6 as IPv4; a name stays as it is."""
    return str(parse_address(address) or address)


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, with IPv4 inside IPv6 as IPv4; ``None`` for a name."""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


class AllowedHosts:
    """The names of the server.

    A page elsewhere can let its own name resolve to this machine (DNS rebinding), and the browser then takes both
    for the same site. The Host header shows under which name a request came.

    Args:
        host: the address that the server listens on.
        port: its port.
        allowed: other names, with or without a port.

    Raises:
        InputError: one of ``allowed`` is not a name.
    """

    def __init__(self, host: str, port: int, allowed: Sequence[str] = ()) -> None:
        self._port = port
        names = {plain_address(host.lower()), *(own_names() if reaches_others(host) else ())}
        if not reaches_others(host) or is_everywhere(host):
            names |= {"localhost", "127.0.0.1", "::1"}
        self._exact: set[Place] = {(name, port) for name in names}
        self._bare: set[Place] = {(name, None) for name in names}
        for name in allowed:
            place = place_of(name)
            if place is None:
                raise InputError(
                    f"--allowed-hosts takes names such as studio.example or studio.example:8443; given {name!r}"
                )
            self._exact |= {place, (place[0], place[1] or port)}

    def serves(self, host: str, reached: str) -> bool:
        """Whether a Host header names this server; ``reached`` is the address that the connection was made to."""
        place = place_of(host)
        return place is not None and (
            place in self._exact | self._bare or place in {(plain_address(reached), p) for p in (None, self._port)}
        )

    def is_ours(self, origin: str, host: str) -> bool:
        """Whether an Origin header names a page of this server, in a request under the accepted name ``host``."""
        scheme, _, rest = origin.partition("://")
        place = place_of(rest)
        if scheme not in ("http", "https") or place is None:
            return False
        return place == place_of(host) or place in self._exact


def place_of(text: str) -> Place | None:
    """Parse ``name``, ``name:port``, ``[v6]`` or ``[v6]:port``; ``None`` for anything else."""
    found = HOST.fullmatch(text.lower())
    if not found:
        return None
    return plain_address(found[1].strip("[]")), int(found[4]) if found[4] else None


def is_everywhere(host: str) -> bool:
    """Whether listening on ``host`` is listening on all addresses."""
    address = parse_address(host or "0.0.0.0")
    return address is not None and address.is_unspecified


def reaches_others(host: str) -> bool:
    """Whether other machines can reach a server that listens on ``host``."""
    address = parse_address(host or "0.0.0.0")
    return host.lower() != "localhost" if address is None else not address.is_loopback


def own_names() -> set[str]:
    """The names of this machine, without a name look-up."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return {name, short, f"{short}.local"}
