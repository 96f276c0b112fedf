"""Limits on wrong passwords: a pause that grows with each one of a client, and a rate for all clients together."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from purrception.studio.addresses import client_of

FREE_ATTEMPTS = 3
"""Passwords that a client may try without a pause."""
LONGEST_PAUSE = 300.0
"""Seconds."""
RESET_AFTER = 3600.0
"""Seconds without an attempt after which a client starts from zero."""
MAX_PER_MINUTE = 30
"""Passwords that are checked in a minute, for all clients together."""
MAX_CLIENTS = 1024
"""Clients that are remembered; the one inactive for longest is forgotten first."""


class LoginAttempts:
    """Attempts to log in, by client.

    Args:
        clock: returns seconds from any starting point.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._recent: deque[float] = deque()

    def start(self, address: str) -> float:
        """Seconds to wait before a password is checked; at 0 it may be checked, and counts as wrong until then.

        It is counted before it is checked, so that sending many at the same moment gains nothing. See
        :meth:`succeed`.
        """
        now, client = self._clock(), client_of(address)
        attempts, until = self._attempts.get(client, (0, now))
        if now - until > RESET_AFTER:
            attempts, until = 0, now
        while self._recent and now - self._recent[0] >= 60:
            self._recent.popleft()
        if len(self._recent) >= MAX_PER_MINUTE:
            until = max(until, self._recent[0] + 60)
        if until > now:
            return until - now
        self._recent.append(now)
        pause = 0.0 if attempts + 1 < FREE_ATTEMPTS else min(2.0 ** (attempts + 1 - FREE_ATTEMPTS), LONGEST_PAUSE)
        self._attempts[client] = (attempts + 1, now + pause)
        self._attempts.move_to_end(client)
        if len(self._attempts) > MAX_CLIENTS:
            self._attempts.popitem(last=False)
        return 0.0

    def succeed(self, address: str) -> None:
        """Note that the password was right: the client starts from zero."""
        self._attempts.pop(client_of(address), None)
        if self._recent:
            self._recent.pop()
