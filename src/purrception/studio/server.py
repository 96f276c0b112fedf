"""Starting the page: where it listens, where it writes, and what it must never do."""

from __future__ import annotations

import hmac
import os
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from purrception.errors import InputError
from purrception.packages import require

LOOPBACK = "127.0.0.1"
FIRST_PORT, PORTS_TRIED = 7860, 100
LARGEST_UPLOAD = "20mb"
WAITING = 64
"""People who may wait at once; the next is told that it is too busy."""
SESSIONS = 64
"""Visitors whose results are remembered; the one longest away is forgotten first."""


@dataclass(frozen=True)
class StudioOptions:
    """What ``purrception studio`` takes."""

    host: str = LOOPBACK
    """Address to listen on; another than 127.0.0.1 lets others in, so give a password too."""
    port: int = 0
    """Port; 0 takes the first free one from 7860 on."""
    password: str = ""
    """Asked of everybody who opens the page, with any name; empty: nobody is asked."""
    device: str = "auto"
    """cpu, cuda, …; auto takes a GPU when there is one."""


def open_studio(target: str, options: StudioOptions, say: Callable[[str], None] = print) -> None:
    """Serve the page of a run or pipeline until interrupted.

    Args:
        target: the run, or a pipeline folder.
        options: address, port, password, device.
        say: told where the page is.

    Raises:
        InputError: gradio is not installed, there is no such run, or the port is taken.
    """
    from purrception.studio.session import Studio
    from purrception.training.config import resolve_device

    studio = Studio(target, resolve_device(options.device))
    port = _free_port(options.host, options.port)
    keep_to_yourself(studio.folder / "uploads")
    require("gradio", "the studio")
    from purrception.studio.page import STYLE, build_page, theme

    def admit(name: str, password: str) -> bool:
        return hmac.compare_digest(password.encode(), options.password.encode())

    page = build_page(studio).queue(max_size=WAITING, default_concurrency_limit=1)
    page.launch(
        server_name=options.host,
        server_port=port,
        auth=admit if options.password else None,
        theme=theme(),
        head=f"<style>{STYLE}</style>",  # as css it would be confined to the inside of a tab
        footer_links=[],
        max_file_size=LARGEST_UPLOAD,
        state_session_capacity=SESSIONS,
        ssr_mode=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    say(f"the studio of {target}: http://{options.host}:{port}  (stop with Ctrl-C)")
    if options.host != LOOPBACK and not options.password:
        say("anybody who reaches this address can use it: --password asks them for one")
    try:
        threading.Event().wait()
    finally:
        page.close()


def keep_to_yourself(cache: Path) -> None:
    """Set the environment so that gradio asks nobody anything, and keeps its files in ``cache``, emptied first."""
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(cache.resolve()),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
    }


def _free_port(host: str, wanted: int) -> int:
    """``wanted``, or the first free port from 7860 on.

    Raises:
        InputError: it is taken, or the address is not this machine's.
    """
    reason = ""
    for port in [wanted] if wanted else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except (OSError, OverflowError) as error:
                reason = str(error)
                continue
            return port
    raise InputError(
        f"cannot listen on {host}, port {wanted or 'any'}: {reason}; choose others with --host, --port"
    )
