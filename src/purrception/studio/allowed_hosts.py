"""The names under which the page is served: the accepted Host and Origin headers."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

from purrception.studio.addresses import plain_address
from purrception.utils.errors import InputError

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?)(:([0-9]{1,5}))?")
Place = tuple[str, int | None]
"""A name and a port; ``None`` where no port is written."""


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
        scheme, found, rest = origin.partition("://")
        place = place_of(rest)
        return (
            bool(found)
            and scheme in ("http", "https")
            and place is not None
            and (place == place_of(host) or place in self._exact)
        )


def place_of(text: str) -> Place | None:
    """Parse ``name``, ``name:port``, ``[v6]`` or ``[v6]:port``; ``None`` for anything else."""
    found = HOST.fullmatch(text.lower())
    if not found:
        return None
    return plain_address(found[1].strip("[]")), int(found[4]) if found[4] else None


def is_everywhere(host: str) -> bool:
    """Whether listening on ``host`` is listening on all addresses."""
    try:
        return ipaddress.ip_address(host or "0.0.0.0").is_unspecified
    except ValueError:
        return False


def reaches_others(host: str) -> bool:
    """Whether other machines can reach a server that listens on ``host``."""
    try:
        return not ipaddress.ip_address(host or "0.0.0.0").is_loopback
    except ValueError:
        return host.lower() != "localhost"


def own_names() -> set[str]:
    """The names of this machine, without a name look-up."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return {name, short, f"{short}.local"}
