"""The server's connections: those that dawdle are closed, so that they keep nobody else from an answer."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
from typing import Any, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""Seconds in which a request's head must be whole, from when the connection is there or free again."""
BODY_SECONDS = 120.0
"""Seconds in which its body must be whole."""
READING_SECONDS = 60.0
"""Seconds that an answer may wait for somebody who does not read on."""
MOST_WAITING = 4096
"""Connections without a whole head; beyond, the one that waits longest is closed."""
MOST_FILES = 65536
CLOSING_SECONDS = 2


class WatchedProtocol(H11Protocol):
    """A connection that is closed when it keeps the server waiting."""

    most_waiting: ClassVar[int] = MOST_WAITING
    _waiting: ClassVar[dict[WatchedProtocol, None]] = {}
    _phase: Any = None
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection, without a head."""
        super().connection_made(transport)
        self._follow()

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        """The connection is free for another request."""
        super().on_response_complete()
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._wait_until(None)
        self._waiting.pop(self, None)
        self.resume_writing()

    def shutdown(self) -> None:
        """The server ends, and does not wait for the pages that are open: each holds a connection for ever."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """Somebody does not read what they asked for."""
        super().pause_writing()
        self._unread = self.loop.call_later(READING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """They read on."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _follow(self) -> None:
        """Begin to wait for a head or a body where that is what comes next, and end it where it has come."""
        if self.conn.their_state is self._phase:
            return
        self._phase = self.conn.their_state
        self._waiting.pop(self, None)
        if self._phase is h11.IDLE:
            self._wait_until(HEAD_SECONDS)
            self._waiting[self] = None
            if len(self._waiting) > self.most_waiting:
                longest = next(iter(self._waiting))
                del self._waiting[longest]  # before it is gone: several may come in one turn of the loop
                longest.transport.abort()
        else:
            self._wait_until(BODY_SECONDS if self._phase is h11.SEND_BODY else None)

    def _wait_until(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


def serve(app: Any, listening: socket.socket) -> None:
    """Answer until interrupted; raises what the interruption raises, as KeyboardInterrupt."""
    WatchedProtocol.most_waiting = min(MOST_WAITING, _allow_many_files() // 2)
    config = uvicorn.Config(
        app,
        http=WatchedProtocol,
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        proxy_headers=False,  # anybody can write X-Forwarded-For
        server_header=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    signal.signal(signal.SIGTERM, _leave)  # else it would end the process before it has tidied up
    uvicorn.Server(config).run(sockets=[listening])


def _allow_many_files() -> int:
    """Open as many files and connections as the system lets this process; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _leave(number: int, frame: Any) -> None:
    sys.exit(128 + number)
