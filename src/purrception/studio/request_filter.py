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
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from purrception.studio.addresses import AllowedHosts, client_of
from purrception.studio.login_attempts import LoginAttempts
from purrception.studio.upload_folder import UploadFolder

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
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'; object-src 'none'",
}


class RequestFilter:
    """The ASGI application in front of the page.

    Args:
        app: the page.
        hosts: the names under which it is served.
        uploads: the uploaded files.
        attempts: the login attempts; ``None`` without a password.
    """

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts, uploads: UploadFolder, attempts: LoginAttempts | None
    ) -> None:
        self._app, self._hosts, self._uploads, self._attempts = app, hosts, uploads, attempts
        self._active: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._bytes_received = 0
        self._upload_lock = asyncio.Lock()
        self._logins: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or answer why it is refused."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            request = Request(scope, receive)
            try:
                with self._turn(request):
                    await self._serve(request, send)
            except HTTPException as refused:  # gradio's page shows its line, and people can read it
                headers = {**HEADERS, "cache-control": "no-store", **(refused.headers or {})}
                answer = JSONResponse({"detail": refused.detail}, refused.status_code, headers)
                await answer(scope, receive, send)

    @contextlib.contextmanager
    def _turn(self, request: Request) -> Iterator[None]:
        """Count a request among those that are served at the same time."""
        kind, client = bool(PAGE.fullmatch(request["path"])), client_of(_address(request))
        active, (most, most_of_one) = self._active[kind], MAX_PAGES if kind else MAX_REQUESTS
        if active.total() >= most or active[client] >= most_of_one:
            raise _refusal(503, "too busy: try again in a moment", 2)
        active[client] += 1
        try:
            yield
        finally:
            active[client] -= 1
            if not active[client]:
                del active[client]

    async def _serve(self, request: Request, send: Send) -> None:
        self._check_names(request)
        self._check_route(request)
        del MutableHeaders(scope=request.scope)["x-gradio-server"]
        send = _with_headers(send, request["path"])
        if request.method != "POST":
            await self._app(request.scope, request.receive, send)
            return
        body = bytearray()
        try:
            await self._receive(request, body)
            await self._pass_on(request, bytes(body), send)
        finally:
            self._bytes_received -= len(body)

    def _check_names(self, request: Request) -> None:
        """Refuse requests under a name, or from a page, that is not the studio's."""
        headers = request.headers
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1:
            raise _refusal(400, "a request must name exactly one host")
        hosts += [part.strip() for value in headers.getlist("x-forwarded-host") for part in value.split(",")]
        reached = (request.get("server") or ("",))[0]
        for host in hosts:
            if not self._hosts.serves(host, reached):
                raise _refusal(
                    421,
                    f"this studio is not served as {host[:100]!r}: if it should be, start it with "
                    f"--allowed-hosts and that name",
                )
        ours = len(origins) == 1 and any(self._hosts.is_ours(origins[0], host) for host in hosts)
        opens = (request.method, request["path"], headers.get("sec-fetch-mode")) == ("GET", "/", "navigate")
        elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if (origins and not ours) or (elsewhere and not opens):
            raise _refusal(403, "this request comes from a page that is not the studio's")

    def _check_route(self, request: Request) -> None:
        """Refuse routes that the page does not need, or that need a login."""
        path, writes = request["path"], request.method == "POST"
        if request.method not in ("GET", "HEAD", "POST"):
            raise _refusal(405, "the studio answers GET, HEAD and POST")
        if not (WRITE if writes else READ).fullmatch(path):
            raise _refusal(404, "there is nothing here")
        needs_login = (writes or path.startswith(API)) and not OPEN.fullmatch(path)
        if self._attempts is not None and needs_login and not self._logins.keys() & set(request.cookies.values()):
            raise _refusal(401, "give the password first")
        if path.startswith(FILE) and not self._uploads.holds(path.removeprefix(FILE)):
            raise _refusal(403, "there is no such file")
        if writes and path.startswith("/login") and self._attempts is not None:
            wait = self._attempts.start(_address(request))
            if wait:
                raise _refusal(429, f"too many wrong passwords: try again in {wait:.0f} s", wait)

    async def _receive(self, request: Request, body: bytearray) -> None:
        """Receive the request into ``body``, within its limit, whatever length it declares."""
        path = request["path"].rstrip("/")
        limit = {UPLOAD: LARGEST_FILE + UPLOAD_OVERHEAD, PAINTING: LARGEST_PAINTING}.get(path, LARGEST_BODY)
        too_large = _refusal(413, f"that is too large: at most {limit // 2**20} MB are accepted at once")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_large
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise _refusal(400, "the request ended early")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            body += chunk
            self._bytes_received += len(chunk)
            if len(body) > limit:
                raise too_large
            if self._bytes_received > LARGEST_TOGETHER:
                raise _refusal(503, "too much is being uploaded at once: try again in a moment", 10)
            if path in (UPLOAD, PAINTING) and not self._uploads.charge(_address(request), len(chunk)):
                raise _refusal(429, "you have uploaded as much as the studio accepts in an hour", 3600)

    async def _pass_on(self, request: Request, body: bytes, send: Send) -> None:
        """Pass a request with its whole body on to the page."""
        path = request["path"].rstrip("/")
        app = functools.partial(self._app, request.scope, _replay(body, request.receive))
        if path == "/login":
            await app(send if self._attempts is None else self._remember_login(request, self._attempts, send))
            return
        if path not in (UPLOAD, PAINTING):
            self._check_files(body)
            await app(send)
            return
        _, options = parse_options_header(request.headers.get("content-type", ""))
        if body.count(b"--" + options.get(b"boundary", b"")) > MAX_PARTS:
            raise _refusal(413, f"at most {MAX_PARTS} files and fields are accepted at once")
        async with self._upload_lock:  # one at a time, so that the room that was found is still there
            if not await asyncio.to_thread(self._uploads.tidy, len(body)):
                raise _refusal(
                    507, "the studio has no room for more files at the moment: try again in a minute", 60
                )
            await app(send)

    def _check_files(self, body: bytes) -> None:
        """Refuse files that were not uploaded here, in particular addresses to fetch them from."""
        try:
            content = json.loads(body or b"null")
        except (ValueError, RecursionError):
            raise _refusal(400, "the request is not JSON") from None
        for record in _records(content):
            path, url = record.get("path"), record.get("url")
            is_upload = path is None or (isinstance(path, str) and self._uploads.holds(path))
            if not is_upload or not (url is None or (isinstance(url, str) and self._is_here(url))):
                raise _refusal(400, "a file must be uploaded here: nothing is fetched from elsewhere")

    def _is_here(self, url: str) -> bool:
        """Whether a URL is that of an uploaded file on this server."""
        scheme, _, rest = url.partition("://")
        path = rest[rest.find("/") :] if scheme in ("http", "https") else url
        return path.startswith(FILE) and self._uploads.holds(unquote(path.removeprefix(FILE)))

    def _remember_login(self, request: Request, attempts: LoginAttempts, send: Send) -> Send:
        """Wrap ``send`` so that a successful login, and its cookies, are remembered."""

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                attempts.succeed(_address(request))
                for cookie in Headers(raw=message["headers"]).getlist("set-cookie"):
                    self._logins[cookie.partition(";")[0].partition("=")[2]] = None
                while len(self._logins) > MAX_LOGINS:
                    self._logins.popitem(last=False)
            await send(message)

        return note


def _refusal(status: int, line: str, wait: float = 0) -> HTTPException:
    """Why a request is not served: a status, a line for people, and the seconds to wait before the next."""
    return HTTPException(status, line, {"retry-after": str(math.ceil(wait))} if wait else None)


def _address(request: Request) -> str:
    """Address of the client; what a proxy says about it is ignored, because any client can say it."""
    return request.client.host if request.client else ""


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
    received: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return received.pop() if received else await receive()

    return replay


def _with_headers(send: Send, path: str) -> Send:
    """Wrap ``send`` so that it adds our headers, and drops those that let other pages read the answer."""
    is_static = re.match(r"/(static|assets|svelte|favicon)", path)  # the same for everybody

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name.lower(), value) for name, value in message.get("headers", ())]
            headers = MutableHeaders(raw=[pair for pair in kept if not pair[0].startswith(b"access-control-")])
            headers.update(HEADERS if is_static else {**HEADERS, "cache-control": "no-store"})
            message = {**message, "headers": headers.raw}
        await send(message)

    return with_headers
