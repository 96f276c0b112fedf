"""Starting the page: where it listens, where it writes, and what it must never do."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purrception.studio.attempts import Attempts
from purrception.studio.hosts import Hosts, reaches_others
from purrception.utils.errors import InputError, in_words
from purrception.utils.packages import require

if TYPE_CHECKING:
    from purrception.studio.session import Studio

LOOPBACK = "127.0.0.1"
FIRST_PORT, PORTS_TRIED = 7860, 100
WAITING = 64
"""People who may wait at once; the next is told that it is too busy."""
SESSIONS = 64
"""Visitors whose results are remembered; the one longest away is forgotten first."""
TIDY_SECONDS = 60
BACKLOG = 2048
LOOK_UPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"})


@dataclass(frozen=True)
class StudioOptions:
    """What ``purrception studio`` takes."""

    host: str = LOOPBACK
    """Address to listen on; another than 127.0.0.1 lets others in, so give a password too."""
    port: int = 0
    """Port; 0 takes the first free one from 7860 on."""
    allowed_hosts: tuple[str, ...] = ()
    """Other names under which browsers reach it, such as studio.example of a proxy, or localhost:9000 of a tunnel;
    the address it listens on, and this machine's names, are known."""
    password: str = ""
    """Asked of everybody who opens the page, with any name; empty: nobody is asked."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU when there is one."""


def open_studio(target: str, options: StudioOptions, say: Callable[[str], None] = print) -> None:
    """Serve the page of a run or pipeline until interrupted.

    Args:
        target: the run, or a pipeline folder.
        options: address, port, names, password, device.
        say: told where the page is.

    Raises:
        InputError: gradio is not installed, there is no such run, the port is taken, a host is no name.
    """
    from purrception.studio.files import Uploads, own_folder
    from purrception.studio.session import Studio
    from purrception.utils.devices import resolve_device

    studio = Studio(target, resolve_device(options.device))
    with _listen(options.host, options.port) as listening, own_folder(studio.folder / "uploads") as folder:
        port = listening.getsockname()[1]
        hosts = Hosts(options.host, port, options.allowed_hosts)
        studio.uploads = Uploads(folder)
        keep_to_yourself(folder)
        require("gradio", "the studio")
        from purrception.studio.connections import serve
        from purrception.studio.guard import Guard

        attempts = Attempts() if options.password else None
        app = Guard(_application(studio, options), hosts, studio.uploads, attempts)
        contact_nobody()
        name = f"[{options.host}]" if ":" in options.host else options.host
        say(f"the studio of {target}: http://{name}:{port}  (stop with Ctrl-C)")
        if reaches_others(options.host) and not options.password:
            say("anybody who reaches this address can use it: --password asks them for one")
        serve(app, listening)


def _application(studio: Studio, options: StudioOptions) -> Any:
    """The page as an ASGI application, and what tidies up beside it."""
    import gradio as gr
    from fastapi import FastAPI

    from purrception.studio.guard import LARGEST_FILE
    from purrception.studio.page import STYLE, build_page, theme

    def admit(name: str, password: str) -> bool:
        return hmac.compare_digest(password.encode(), options.password.encode())

    @contextlib.asynccontextmanager
    async def beside(app: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_tidy(studio))
        try:
            yield
        finally:
            tidying.cancel()
            studio.stop_all()

    page = build_page(studio).queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
    page.state_session_capacity = SESSIONS
    page.has_launched = True  # before that, gradio takes any path for one that was uploaded
    studio.uploads.keep_present()
    return gr.mount_gradio_app(
        FastAPI(lifespan=beside, openapi_url=None),
        page,
        path="/",
        server_name=options.host,
        auth=admit if options.password else None,
        theme=theme(),
        head=f"<style>{STYLE}</style>",  # as css it would be confined to the inside of a tab
        footer_links=[],
        max_file_size=LARGEST_FILE,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        mcp_server=False,
    )


async def _tidy(studio: Studio) -> None:
    """Every minute, remove files that nobody uses any more."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        await asyncio.to_thread(studio.uploads.tidy)


def keep_to_yourself(cache: Path) -> None:
    """Set the environment so that gradio asks nobody anything, and keeps its files in ``cache``."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_TEMP_DIR": str(cache.resolve()),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
    }


def contact_nobody() -> None:
    """From here on this process resolves no name and opens no connection: it only answers.

    Whatever a request makes a library do, this is where it ends; it holds for the life of the process.
    """

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in LOOK_UPS or (event == "socket.connect" and isinstance(arguments[1], tuple)):
            raise PermissionError("the studio contacts nobody")

    sys.addaudithook(refuse)


def _listen(host: str, wanted: int) -> socket.socket:
    """A socket that listens at port ``wanted``, or at the first free one from 7860 on.

    Raises:
        InputError: it is taken, or the address is not this machine's.
    """
    reason = ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in [wanted] if wanted else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        try:
            return socket.create_server((host, port), family=family, backlog=BACKLOG)
        except (OSError, OverflowError) as error:
            reason = in_words(error)
    raise InputError(
        f"cannot listen on {host}, port {wanted or 'any'}: {reason}; choose others with --host, --port"
    )
