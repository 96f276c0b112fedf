"""What stands before the page: who may ask, for what, how much and how often.

An ASGI application around gradio's. It serves what the page needs and nothing else of gradio's many routes, which
fetch addresses for whoever asks, among other things.
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

from purrception.studio.attempts import Attempts, visitor_of
from purrception.studio.files import Uploads
from purrception.studio.hosts import Hosts

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
"""What somebody needs who has not given the password yet."""
UPLOAD, PAINTING = f"{API}/upload", f"{API}/component_server"
LARGEST_FILE = 20 * 2**20
LARGEST_PAINTING = 2 * 2**20
LARGEST_BODY = 2**20
"""Bytes of any other request."""
SLACK = 2**16
"""Bytes of an upload that are not its file's."""
LARGEST_TOGETHER = 256 * 2**20
"""Bytes of all requests that are being received."""
MOST_KNOWN = 10_000
"""Logins that are remembered; the first are forgotten first."""
MOST_PARTS = 16
"""Files and fields of one upload."""
PAGE = re.compile(rf"/|/config/?|{API}/info/?")
MOST_PAGES, MOST_REQUESTS = (48, 40), (512, 256)
"""Requests at once, of all and of one address: of those that gradio takes a tenth of a second for, and of others;
a page that is open holds one or two."""
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
    """A request that is not served: a status, a line that says why, and how long to wait."""

    def __init__(self, status: int, line: str, wait: float = 0) -> None:
        super().__init__(line)
        self.status, self.line, self.wait = status, line, wait


@dataclass(frozen=True)
class Asked:
    """A request's head."""

    method: str
    path: str
    address: str
    """Of who asks; what a proxy says about it anybody could say."""
    reached: str
    """The address of this machine that it came to."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for given, value in self.headers if given == name]

    def one(self, name: str) -> str:
        """The value of a header; empty without one."""
        return (self.all(name) or [""])[-1]


class Guard:
    """The application in front of the page's.

    Args:
        app: the page.
        hosts: the names under which it is served.
        uploads: where files are.
        attempts: of passwords; None where none is asked for.
    """

    def __init__(self, app: Any, hosts: Hosts, uploads: Uploads, attempts: Attempts | None) -> None:
        self._app, self._hosts, self._uploads, self._attempts = app, hosts, uploads, attempts
        self._at_once: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._receiving = 0
        self._storing = asyncio.Lock()
        self._known: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, or say why not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            asked = _head(scope)
            try:
                with self._turn(asked):
                    await self._serve(asked, scope, receive, send)
            except RefusedError as refused:
                await _tell(refused, send)

    @contextlib.contextmanager
    def _turn(self, asked: Asked) -> Iterator[None]:
        """Hold a place among the requests that are served at once."""
        kind, visitor = bool(PAGE.fullmatch(asked.path)), visitor_of(asked.address)
        at_once, (most, most_of_one) = self._at_once[kind], MOST_PAGES if kind else MOST_REQUESTS
        if at_once.total() >= most or at_once[visitor] >= most_of_one:
            raise RefusedError(503, "too busy: try again in a moment", 2)
        at_once[visitor] += 1
        try:
            yield
        finally:
            at_once[visitor] -= 1
            if not at_once[visitor]:
                del at_once[visitor]

    async def _serve(self, asked: Asked, scope: Message, receive: Receive, send: Send) -> None:
        self._check_names(asked)
        self._check_route(asked)
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"x-gradio-server"]}
        send = _dressed(send, asked)
        if asked.method != "POST":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            await self._receive(asked, receive, body)
            await self._pass_on(asked, bytes(body), scope, receive, send)
        finally:
            self._receiving -= len(body)

    def _check_names(self, asked: Asked) -> None:
        """Refuse who came under a name that is not ours, or from a page that is not."""
        hosts = asked.all("host")
        if len(hosts) != 1:
            raise RefusedError(400, "a request names one host")
        forwarded = [part.strip() for value in asked.all("x-forwarded-host") for part in value.split(",")]
        for host in (*hosts, *forwarded):
            if not self._hosts.serves(host, asked.reached):
                raise RefusedError(
                    421,
                    f"this studio is not served as {host[:100]!r}: if it should be, start it with "
                    f"--allowed-hosts and that name",
                )
        ours = any(
            self._hosts.is_ours(origin, host) for origin in asked.all("origin") for host in hosts + forwarded
        )
        if asked.all("origin") and not (ours and len(asked.all("origin")) == 1):
            raise RefusedError(403, "this request comes from another page than the studio's own")
        opens = asked.method == "GET" and asked.path == "/" and asked.one("sec-fetch-mode") == "navigate"
        if asked.one("sec-fetch-site") in ("cross-site", "same-site") and not opens:
            raise RefusedError(403, "this request comes from another page than the studio's own")

    def _check_route(self, asked: Asked) -> None:
        """Refuse what the page does not need."""
        if asked.method not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, "the studio answers GET, HEAD and POST")
        if not (WRITE if asked.method == "POST" else READ).fullmatch(asked.path):
            raise RefusedError(404, "there is nothing here")
        if self._attempts is not None and (asked.method == "POST" or asked.path.startswith(API)):
            cookies = [part.partition("=")[2].strip() for part in asked.one("cookie").split(";")]
            if not OPEN.fullmatch(asked.path) and not self._known.keys() & set(cookies):
                raise RefusedError(401, "give the password first")
        if asked.path.startswith(FILE) and not self._uploads.holds(asked.path.removeprefix(FILE)):
            raise RefusedError(403, "there is no such file")
        if asked.method == "POST" and asked.path.startswith("/login") and self._attempts is not None:
            wait = self._attempts.ask(asked.address)
            if wait:
                raise RefusedError(429, f"too many wrong passwords: try again in {wait:.0f} s", wait)

    async def _receive(self, asked: Asked, receive: Receive, body: bytearray) -> None:
        """Fill ``body``, whatever the request says about its length."""
        path = asked.path.rstrip("/")
        limit = {UPLOAD: LARGEST_FILE + SLACK, PAINTING: LARGEST_PAINTING}.get(path, LARGEST_BODY)
        too_large = RefusedError(413, f"that is too large: at most {limit // 2**20} MB are taken at once")
        declared = asked.one("content-length")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_large
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "the request ended early")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            body += chunk
            self._receiving += len(chunk)
            if len(body) > limit:
                raise too_large
            if self._receiving > LARGEST_TOGETHER:
                raise RefusedError(503, "too much is being uploaded at once: try again in a moment", 10)
            if path in (UPLOAD, PAINTING) and not self._uploads.charge(asked.address, len(chunk)):
                raise RefusedError(429, "you have uploaded as much as the studio takes in an hour", 3600)

    async def _pass_on(self, asked: Asked, body: bytes, scope: Message, receive: Receive, send: Send) -> None:
        """Give a request with its whole body to the page."""
        path = asked.path.rstrip("/")
        app = functools.partial(self._app, scope, _again(body, receive))
        if path == "/login":
            await app(send if self._attempts is None else self._noting(asked, self._attempts, send))
            return
        if path not in (UPLOAD, PAINTING):
            self._check_files(body)
            await app(send)
            return
        _, options = parse_options_header(asked.one("content-type"))
        if body.count(b"--" + options.get(b"boundary", b"")) > MOST_PARTS:
            raise RefusedError(413, f"at most {MOST_PARTS} files and fields are taken at once")
        async with self._storing:  # one after the other, so that there is the room that was found
            if not await asyncio.to_thread(self._uploads.tidy, len(body)):
                raise RefusedError(507, "the studio keeps no more files for now: try again in a minute", 60)
            await app(send)

    def _check_files(self, body: bytes) -> None:
        """Refuse files that were not uploaded here, above all addresses to fetch them from."""
        try:
            asked = json.loads(body or b"null")
        except (ValueError, RecursionError):
            raise RefusedError(400, "the request is no JSON") from None
        for found in _records(asked):
            path, url = found.get("path"), found.get("url")
            here = path is None or (isinstance(path, str) and self._uploads.holds(path))
            if not here or not (url is None or (isinstance(url, str) and self._is_here(url))):
                raise RefusedError(400, "a file is one that you upload here: nothing is fetched from elsewhere")

    def _is_here(self, url: str) -> bool:
        """Whether an address is that of a file of this server."""
        scheme, _, rest = url.partition("://")
        path = rest[rest.find("/") :] if scheme in ("http", "https") else url
        return path.startswith(FILE) and self._uploads.holds(unquote(path.removeprefix(FILE)))

    def _noting(self, asked: Asked, attempts: Attempts, send: Send) -> Send:
        """``send`` that notes whether a password was right, and the cookies that it gave."""

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                attempts.right(asked.address)
                for name, value in message["headers"]:
                    if name.lower() == b"set-cookie":
                        self._known[value.decode("latin-1").partition(";")[0].partition("=")[2]] = None
                while len(self._known) > MOST_KNOWN:
                    self._known.popitem(last=False)
            await send(message)

        return note


def _head(scope: Message) -> Asked:
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    client, server = scope.get("client") or ("",), scope.get("server") or ("",)
    return Asked(scope["method"], scope["path"], client[0], server[0], headers)


def _records(value: Any) -> Iterator[dict[str, Any]]:
    """Every record within what JSON holds."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
        if isinstance(one, dict | list):
            left.extend(one.values() if isinstance(one, dict) else one)


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives a body that has been received, and then what else comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _dressed(send: Send, asked: Asked) -> Send:
    """``send`` with our headers in place of any that let other pages read the answer."""
    stays = re.match(r"/(static|assets|svelte|favicon)", asked.path)  # the same for everybody

    async def dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            gone = HEADERS.keys() | ({b"cache-control"} if not stays else set())
            headers = [
                (name, value)
                for name, value in message.get("headers", ())
                if name.lower() not in gone and not name.lower().startswith(b"access-control-")
            ]
            headers += [*HEADERS.items(), *([] if stays else [(b"cache-control", b"no-store")])]
            message = {**message, "headers": headers}
        await send(message)

    return dressed


async def _tell(refused: RefusedError, send: Send) -> None:
    """Answer with a line, as gradio's page reads it and people do."""
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
