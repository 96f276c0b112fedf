"""The server's connections. Slow ones are closed, so that they cannot block the others."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Seconds in which the head of a request must arrive, from when the connection is open or idle."""
BODY_SECONDS = 120.0
"""Seconds in which the body of a request must arrive."""
READING_SECONDS = 60.0
"""Seconds that an answer waits for a client that has stopped reading."""
MAX_WAITING = 4096
"""Number of connections without a complete head; beyond it, the one that has waited longest is closed."""
MAX_FILES = 65536
CLOSING_SECONDS = 2


class WatchedProtocol(H11Protocol):
    """A connection that is closed when the client is too slow."""

    max_waiting: ClassVar[int] = MAX_WAITING
    _waiting: ClassVar[dict[WatchedProtocol, None]] = {}
    _phase: Any = None
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the head of the first request."""
        super().connection_made(transport)
        self._update()

    def data_received(self, data: bytes) -> None:
        """Receive a part of a request."""
        super().data_received(data)
        self._update()

    def on_response_complete(self) -> None:
        """Start to wait for the next request."""
        super().on_response_complete()
        self._update()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        super().connection_lost(exc)
        self._wait_until(None)
        self._waiting.pop(self, None)
        self.resume_writing()

    def shutdown(self) -> None:
        """Close the connection at once when the server ends: every open page would hold it for ever."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """The client has stopped reading: start the timer."""
        super().pause_writing()
        self._unread = self.loop.call_later(READING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again: stop the timer."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _update(self) -> None:
        """Set the deadline of the phase that the request is in."""
        if self.conn.their_state is self._phase:
            return
        self._phase = self.conn.their_state
        self._waiting.pop(self, None)
        if self._phase is h11.IDLE:
            self._wait_until(HEAD_SECONDS)
            self._waiting[self] = None
            if len(self._waiting) > self.max_waiting:
                longest = next(iter(self._waiting))
                del self._waiting[longest]  # at once: more connections may come before it is lost
                longest.transport.abort()
        else:
            self._wait_until(BODY_SECONDS if self._phase is h11.SEND_BODY else None)

    def _wait_until(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


def serve(app: Any, listening: socket.socket) -> None:
    """Serve ``app`` until interrupted; raises the exception of the interruption, such as KeyboardInterrupt."""
    WatchedProtocol.max_waiting = min(MAX_WAITING, _allow_many_files() // 2)
    config = uvicorn.Config(
        app,
        http=WatchedProtocol,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        proxy_headers=False,  # any client can write X-Forwarded-For
        server_header=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _allow_many_files() -> int:
    """Raise the limit on open files and connections as far as the system allows; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit
