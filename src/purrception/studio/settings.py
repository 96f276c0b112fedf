"""What ``purrception studio`` can be told."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class StudioOptions:
    """What ``purrception studio`` takes."""

    host: str = LOOPBACK
    """Address to listen on; any but 127.0.0.1 lets other machines in, so set a password as well."""
    port: int = 0
    """Port to listen on; 0 takes the first free one from 7860 on."""
    allowed_hosts: tuple[str, ...] = ()
    """Other names under which browsers reach it, such as studio.example (a proxy) or localhost:9000 (a tunnel).
    Its own address and the names of this machine are known."""
    password: str = ""
    """Password for everybody who opens the page, with any user name; empty for none."""
    device: str = "auto"
    """Device to run on: cpu, cuda, …; auto takes a GPU if there is one."""
