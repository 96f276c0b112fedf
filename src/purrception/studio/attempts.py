"""Wrong passwords: a pause that grows with each, for every address by itself and for all of them together."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable

FREE = 3
"""Passwords that an address may try without a pause."""
LONGEST = 300.0
"""Seconds of the longest pause."""
FORGOTTEN = 3600.0
"""Seconds after which an address begins anew."""
ALL_PER_MINUTE = 30
"""Passwords that are looked at in a minute, from all addresses together."""
ADDRESSES = 1024
"""Addresses that are remembered; the one longest silent is forgotten first."""


class Attempts:
    """Passwords tried, by address.

    Args:
        clock: seconds, from whenever.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tried: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._recent: deque[float] = deque()

    def ask(self, address: str) -> float:
        """Seconds to wait before a password is looked at; 0: now, and it counts as wrong until :meth:`right`.

        Counted before it is looked at, so that many sent at the same moment gain nothing.
        """
        now, visitor = self._clock(), visitor_of(address)
        tried, until = self._tried.get(visitor, (0, now))
        if now - until > FORGOTTEN:
            tried, until = 0, now
        while self._recent and now - self._recent[0] >= 60:
            self._recent.popleft()
        if len(self._recent) >= ALL_PER_MINUTE:
            until = max(until, self._recent[0] + 60)
        if until > now:
            return until - now
        self._recent.append(now)
        pause = 0.0 if tried + 1 < FREE else min(2.0 ** (tried + 1 - FREE), LONGEST)
        self._tried[visitor] = (tried + 1, now + pause)
        self._tried.move_to_end(visitor)
        if len(self._tried) > ADDRESSES:
            self._tried.popitem(last=False)
        return 0.0

    def right(self, address: str) -> None:
        """The password was right: the address begins anew."""
        self._tried.pop(visitor_of(address), None)
        if self._recent:
            self._recent.pop()


def visitor_of(address: str) -> str:
    """Whom an address stands for: in IPv6 one person has a whole /64 of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return plain_address(address)


def plain_address(address: str) -> str:
    """An address in its one usual spelling, IPv4 inside IPv6 as IPv4; a name as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
