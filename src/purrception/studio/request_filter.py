"""A filter in front of the page: which requests are served, how large they may be and how frequent.

An ASGI application around that of gradio. It serves only the routes that the page needs; gradio has many more, and
some fetch any address for any client.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from python_multipart.multipart import parse_options_header

from purrception.studio.addresses import client_of
from purrception.studio.allowed_hosts import AllowedHosts
from purrception.studio.login_attempts import LoginAttempts
from purrception.studio.upload_folder import UploadFolder

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

API = "/gradio_api"
FILE = f"{API}/file="
READ = re.compile(
    r"/|/(config|login_check|logout|theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon)/?"
    r"|/(static|assets|svelte)/.+"
    rf"|{API}/(info|theme\.css|app_id|user|login_check|startup-events|upload_progress|queue/(data|status)"
    r"|(heartbeat|call)/.+)/?"
    rf"|{FILE}.+"
)
WRITE = re.compile(rf"/login/?|{API}/((call|run|api)/.+|queue/join|cancel|reset|upload|component_server)/?")
OPEN = re.compile(rf"/login/?|{API}/(info|theme\.css|app_id|user|login_check|startup-events)/?")
"""Routes that are needed before the password is given."""
UPLOAD, PAINTING = f"{API}/upload", f"{API}/component_server"
LARGEST_FILE = 20 * 2**20
LARGEST_PAINTING = 2 * 2**20
LARGEST_BODY = 2**20
"""Bytes of any other request."""
UPLOAD_OVERHEAD = 2**16
"""Bytes of an upload besides its file."""
LARGEST_TOGETHER = 256 * 2**20
"""Bytes of all requests that are being received at the same time."""
MAX_LOGINS = 10_000
"""Number of logins that are remembered; the oldest are forgotten first."""
MAX_PARTS = 16
"""Number of files and fields in one upload."""
PAGE = re.compile(rf"/|/config/?|{API}/info/?")
MAX_PAGES, MAX_REQUESTS = (48, 40), (512, 256)
"""Requests at the same time, (of all clients, of one client): of :data:`PAGE`, which takes gradio a tenth of a
second, and of the other routes, of which an open page holds one or two."""
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"SAMEORIGIN",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    b"base-uri 'self'; form-action 'self'; frame-ancestors 'self'; object-src 'none'",
}


class RefusedError(Exception):
    """A request that is not served: its status, a line that says why, and seconds to wait before the next."""

    def __init__(self, status: int, line: str, wait: float = 0) -> None:
        super().__init__(line)
        self.status, self.line, self.wait = status, line, wait


@dataclass(frozen=True)
class RequestHead:
    """The head of a request."""

    method: str
    path: str
    client: str
    """Address of the client; what a proxy says about it is ignored, because any client can say it."""
    server: str
    """The address of this machine that the request came to."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for header, value in self.headers if header == name]

    def one(self, name: str) -> str:
        """The last value of a header; empty without one."""
        return (self.all(name) or [""])[-1]


class RequestFilter:
    """The ASGI application in front of the page.

    Args:
        app: the page.
        hosts: the names under which it is served.
        uploads: the uploaded files.
        attempts: the login attempts; ``None`` without a password.
    """

    def __init__(
        self, app: Any, hosts: AllowedHosts, uploads: UploadFolder, attempts: LoginAttempts | None
    ) -> None:
        self._app, self._hosts, self._uploads, self._attempts = app, hosts, uploads, attempts
        self._active: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._bytes_received = 0
        self._upload_lock = asyncio.Lock()
        self._logins: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, or answer why it is refused."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            head = _head(scope)
            try:
                with self._turn(head):
                    await self._serve(head, scope, receive, send)
            except RefusedError as refused:
                await _send_refusal(refused, send)

    @contextlib.contextmanager
    def _turn(self, head: RequestHead) -> Iterator[None]:
        """Count a request among those that are served at the same time."""
        kind, client = bool(PAGE.fullmatch(head.path)), client_of(head.client)
        active, (most, most_of_one) = self._active[kind], MAX_PAGES if kind else MAX_REQUESTS
        if active.total() >= most or active[client] >= most_of_one:
            raise RefusedError(503, "too busy: try again in a moment", 2)
        active[client] += 1
        try:
            yield
        finally:
            active[client] -= 1
            if not active[client]:
                del active[client]

    async def _serve(self, head: RequestHead, scope: Message, receive: Receive, send: Send) -> None:
        self._check_names(head)
        self._check_route(head)
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"x-gradio-server"]}
        send = _with_headers(send, head)
        if head.method != "POST":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            await self._receive(head, receive, body)
            await self._pass_on(head, bytes(body), scope, receive, send)
        finally:
            self._bytes_received -= len(body)

    def _check_names(self, head: RequestHead) -> None:
        """Refuse requests under a name, or from a page, that is not the studio's."""
        hosts = head.all("host")
        if len(hosts) != 1:
            raise RefusedError(400, "a request must name exactly one host")
        forwarded = [part.strip() for value in head.all("x-forwarded-host") for part in value.split(",")]
        for host in (*hosts, *forwarded):
            if not self._hosts.serves(host, head.server):
                raise RefusedError(
                    421,
                    f"this studio is not served as {host[:100]!r}: if it should be, start it with "
                    f"--allowed-hosts and that name",
                )
        ours = any(
            self._hosts.is_ours(origin, host) for origin in head.all("origin") for host in hosts + forwarded
        )
        if head.all("origin") and not (ours and len(head.all("origin")) == 1):
            raise RefusedError(403, "this request comes from a page that is not the studio's")
        opens = head.method == "GET" and head.path == "/" and head.one("sec-fetch-mode") == "navigate"
        if head.one("sec-fetch-site") in ("cross-site", "same-site") and not opens:
            raise RefusedError(403, "this request comes from a page that is not the studio's")

    def _check_route(self, head: RequestHead) -> None:
        """Refuse routes that the page does not need, or that need a login."""
        if head.method not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, "the studio answers GET, HEAD and POST")
        if not (WRITE if head.method == "POST" else READ).fullmatch(head.path):
            raise RefusedError(404, "there is nothing here")
        if self._attempts is not None and (head.method == "POST" or head.path.startswith(API)):
            cookies = [part.partition("=")[2].strip() for part in head.one("cookie").split(";")]
            if not OPEN.fullmatch(head.path) and not self._logins.keys() & set(cookies):
                raise RefusedError(401, "give the password first")
        if head.path.startswith(FILE) and not self._uploads.holds(head.path.removeprefix(FILE)):
            raise RefusedError(403, "there is no such file")
        if head.method == "POST" and head.path.startswith("/login") and self._attempts is not None:
            wait = self._attempts.start(head.client)
            if wait:
                raise RefusedError(429, f"too many wrong passwords: try again in {wait:.0f} s", wait)

    async def _receive(self, head: RequestHead, receive: Receive, body: bytearray) -> None:
        """Receive the request into ``body``, within its limit, whatever length it declares."""
        path = head.path.rstrip("/")
        limit = {UPLOAD: LARGEST_FILE + UPLOAD_OVERHEAD, PAINTING: LARGEST_PAINTING}.get(path, LARGEST_BODY)
        too_large = RefusedError(413, f"that is too large: at most {limit // 2**20} MB are accepted at once")
        declared = head.one("content-length")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_large
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "the request ended early")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            body += chunk
            self._bytes_received += len(chunk)
            if len(body) > limit:
                raise too_large
            if self._bytes_received > LARGEST_TOGETHER:
                raise RefusedError(503, "too much is being uploaded at once: try again in a moment", 10)
            if path in (UPLOAD, PAINTING) and not self._uploads.charge(head.client, len(chunk)):
                raise RefusedError(429, "you have uploaded as much as the studio accepts in an hour", 3600)

    async def _pass_on(self, head: RequestHead, body: bytes, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request with its whole body on to the page."""
        path = head.path.rstrip("/")
        app = functools.partial(self._app, scope, _replay(body, receive))
        if path == "/login":
            await app(send if self._attempts is None else self._remember_login(head, self._attempts, send))
            return
        if path not in (UPLOAD, PAINTING):
            self._check_files(body)
            await app(send)
            return
        _, options = parse_options_header(head.one("content-type"))
        if body.count(b"--" + options.get(b"boundary", b"")) > MAX_PARTS:
            raise RefusedError(413, f"at most {MAX_PARTS} files and fields are accepted at once")
        async with self._upload_lock:  # one at a time, so that the room that was found is still there
            if not await asyncio.to_thread(self._uploads.tidy, len(body)):
                raise RefusedError(
                    507, "the studio has no room for more files at the moment: try again in a minute", 60
                )
            await app(send)

    def _check_files(self, body: bytes) -> None:
        """Refuse files that were not uploaded here, in particular addresses to fetch them from."""
        try:
            content = json.loads(body or b"null")
        except (ValueError, RecursionError):
            raise RefusedError(400, "the request is not JSON") from None
        for record in _records(content):
            path, url = record.get("path"), record.get("url")
            is_upload = path is None or (isinstance(path, str) and self._uploads.holds(path))
            if not is_upload or not (url is None or (isinstance(url, str) and self._is_here(url))):
                raise RefusedError(400, "a file must be uploaded here: nothing is fetched from elsewhere")

    def _is_here(self, url: str) -> bool:
        """Whether a URL is that of an uploaded file on this server."""
        scheme, _, rest = url.partition("://")
        path = rest[rest.find("/") :] if scheme in ("http", "https") else url
        return path.startswith(FILE) and self._uploads.holds(unquote(path.removeprefix(FILE)))

    def _remember_login(self, head: RequestHead, attempts: LoginAttempts, send: Send) -> Send:
        """Wrap ``send`` so that a successful login, and its cookies, are remembered."""

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                attempts.succeed(head.client)
                for name, value in message["headers"]:
                    if name.lower() == b"set-cookie":
                        self._logins[value.decode("latin-1").partition(";")[0].partition("=")[2]] = None
                while len(self._logins) > MAX_LOGINS:
                    self._logins.popitem(last=False)
            await send(message)

        return note


def _head(scope: Message) -> RequestHead:
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    client, server = scope.get("client") or ("",), scope.get("server") or ("",)
    return RequestHead(scope["method"], scope["path"], client[0], server[0], headers)


def _records(value: Any) -> Iterator[dict[str, Any]]:
    """All objects within a JSON value."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
        if isinstance(one, dict | list):
            left.extend(one.values() if isinstance(one, dict) else one)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns an already received body first."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _with_headers(send: Send, head: RequestHead) -> Send:
    """Wrap ``send`` so that it adds our headers, and drops those that let other pages read the answer."""
    is_static = re.match(r"/(static|assets|svelte|favicon)", head.path)  # the same for everybody

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            dropped = HEADERS.keys() | ({b"cache-control"} if not is_static else set())
            headers = [
                (name, value)
                for name, value in message.get("headers", ())
                if name.lower() not in dropped and not name.lower().startswith(b"access-control-")
            ]
            headers += [*HEADERS.items(), *([] if is_static else [(b"cache-control", b"no-store")])]
            message = {**message, "headers": headers}
        await send(message)

    return with_headers


async def _send_refusal(refused: RefusedError, send: Send) -> None:
    """Answer with a line of text that gradio's page shows and people can read."""
    body = json.dumps({"detail": refused.line}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *HEADERS.items(),
    ]
    if refused.wait:
        headers.append((b"retry-after", str(math.ceil(refused.wait)).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
