"""The server of the page: where it listens and writes, and how it is kept from contacting other machines."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purrception.studio.addresses import AllowedHosts, reaches_others
from purrception.studio.login_attempts import LoginAttempts
from purrception.studio.settings import StudioOptions
from purrception.utils.errors import InputError, in_words
from purrception.utils.packages import require

if TYPE_CHECKING:
    require("gradio", "the studio")
    from purrception.studio.session import Studio

FIRST_PORT, PORTS_TRIED = 7860, 100
MAX_QUEUED = 64
"""Number of jobs that may wait; further ones are refused."""
MAX_SESSIONS = 64
"""Number of sessions whose results are kept; the one inactive for longest is forgotten first."""
TIDY_SECONDS = 60
BACKLOG = 2048
LOOK_UPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"})


def open_studio(target: str, options: StudioOptions) -> None:
    """Serve the page of a run or pipeline until interrupted.

    Args:
        target: a run or a pipeline folder.
        options: address, port, names, password and device.

    Raises:
        InputError: gradio is not installed, there is no such run, the port is taken, or a host is not a name.
    """
    from purrception.studio.session import Studio
    from purrception.studio.upload_folder import UploadFolder, process_folder
    from purrception.utils.devices import resolve_device

    # The default would end the process without clean-up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    studio = Studio(target, resolve_device(options.device))
    with _listen(options.host, options.port) as listening, process_folder(studio.folder / "uploads") as folder:
        port = listening.getsockname()[1]
        hosts = AllowedHosts(options.host, port, options.allowed_hosts)
        studio.uploads = UploadFolder(folder)
        set_environment(folder)
        from purrception.studio.connections import serve
        from purrception.studio.request_filter import RequestFilter

        attempts = LoginAttempts() if options.password else None
        app = RequestFilter(_application(studio, options), hosts, studio.uploads, attempts)
        forbid_connections()
        name = f"[{options.host}]" if ":" in options.host else options.host
        print(f"the studio of {target}: http://{name}:{port}  (stop with Ctrl-C)", flush=True)
        if reaches_others(options.host) and not options.password:
            print("anybody who reaches this address can use it: set a password with --password", flush=True)
        serve(app, listening)


def _application(studio: Studio, options: StudioOptions) -> Any:
    """The page as an ASGI application, with the task that removes old files."""
    import gradio as gr
    from fastapi import FastAPI

    from purrception.studio.page import build_page, style, theme
    from purrception.studio.request_filter import LARGEST_FILE

    def admit(name: str, password: str) -> bool:
        return hmac.compare_digest(password.encode(), options.password.encode())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_tidy(studio))
        try:
            yield
        finally:
            tidying.cancel()
            studio.stop_all()

    page = build_page(studio).queue(max_size=MAX_QUEUED, default_concurrency_limit=1, api_open=False)
    page.state_session_capacity = MAX_SESSIONS
    page.has_launched = True  # before launch, gradio accepts any path as that of an upload
    studio.uploads.keep_present()
    return gr.mount_gradio_app(
        FastAPI(lifespan=lifespan, openapi_url=None),
        page,
        path="/",
        server_name=options.host,
        auth=admit if options.password else None,
        theme=theme(),
        head=f"<style>{style(studio)}</style>",  # passed as css it would only apply within a tab
        footer_links=[],
        max_file_size=LARGEST_FILE,
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
        mcp_server=False,
    )


async def _tidy(studio: Studio) -> None:
    """Remove unused files every minute."""
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        await asyncio.to_thread(studio.uploads.tidy)


def set_environment(cache: Path) -> None:
    """Set the environment so that gradio contacts no other machine, and keeps its files in ``cache``."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_TEMP_DIR": str(cache.resolve()),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
    }


def forbid_connections() -> None:
    """Keep this process, for the rest of its life, from resolving names and opening connections.

    This also stops whatever a request might make a library do.
    """

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in LOOK_UPS or (event == "socket.connect" and isinstance(arguments[1], tuple)):
            raise PermissionError("the studio contacts no other machine")

    sys.addaudithook(refuse)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``port``, or for 0 on the first free one from 7860 on.

    Raises:
        InputError: the port is taken, or the address is not this machine's.
    """
    reason = ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        try:
            return socket.create_server((host, candidate), family=family, backlog=BACKLOG)
        except (OSError, OverflowError) as error:
            reason = in_words(error)
    raise InputError(
        f"cannot listen on {host}, port {port or 'any'}: {reason}; choose others with --host and --port"
    )
