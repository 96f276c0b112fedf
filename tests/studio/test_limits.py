"""The limits in front of the page, one by one: names, passwords, files, connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from purrception.studio import login_attempts, upload_folder
from purrception.studio.addresses import AllowedHosts
from purrception.studio.login_attempts import LoginAttempts
from purrception.studio.upload_folder import UploadFolder, process_folder
from purrception.utils.errors import InputError
from tests.forked import python


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def test_each_wrong_password_makes_the_pause_longer() -> None:
    clock = Clock()
    tried = LoginAttempts(clock)
    assert [tried.start("a") for _ in range(login_attempts.FREE_ATTEMPTS)] == [0, 0, 0]
    pauses = []
    for _ in range(12):
        pauses.append(tried.start("a"))
        clock.now += pauses[-1]
        assert tried.start("a") == 0
    assert pauses == [min(2.0**n, login_attempts.LONGEST_PAUSE) for n in range(12)]
    assert tried.start("b") == 0
    tried.succeed("a")
    assert tried.start("a") == 0
    assert tried.start("a") == 0


def test_many_addresses_do_not_help_much_and_are_not_all_remembered() -> None:
    clock = Clock()
    tried = LoginAttempts(clock)
    looked_at = sum(tried.start(f"10.{n // 250}.{n % 250}.1") == 0 for n in range(5000))
    assert looked_at == login_attempts.MAX_PER_MINUTE
    assert 0 < tried.start("192.0.2.1") <= 60
    clock.now += 60
    for n in range(5000):
        clock.now += 3
        assert tried.start(f"10.{n // 250}.{n % 250}.1") == 0
    assert len(tried._attempts) == login_attempts.MAX_CLIENTS


def test_somebody_with_a_network_of_addresses_is_one() -> None:
    tried = LoginAttempts(Clock())
    waits = [tried.start(f"2001:db8::{n:x}") for n in range(1, 6)]
    assert waits[:3] == [0, 0, 0]
    assert min(waits[3:]) > 0
    assert tried.start("2001:db8:0:1::1") == 0
    assert tried.start("::ffff:192.0.2.1") == tried.start("192.0.2.1") == tried.start("192.0.2.1") == 0
    assert tried.start("::ffff:192.0.2.1") > 0


def test_listening_everywhere_takes_the_names_of_this_machine_and_the_address_that_was_reached() -> None:
    for everywhere in ("0.0.0.0", "::", ""):
        hosts = AllowedHosts(everywhere, 7860)
        for host in ("localhost:7860", socket.gethostname().upper(), "192.0.2.7:7860", "192.0.2.7"):
            assert hosts.serves(host, "192.0.2.7"), host
        assert hosts.serves("192.0.2.7:7860", "::ffff:192.0.2.7")
        for host in ("192.0.2.8:7860", "192.0.2.7:1", "evil.example:7860"):
            assert not hosts.serves(host, "192.0.2.7"), host
    one = AllowedHosts("192.0.2.7", 7860)
    assert one.serves("192.0.2.7:7860", "192.0.2.7")
    assert not one.serves("localhost:7860", "192.0.2.7")
    assert AllowedHosts("::1", 7860).serves("[0::1]:7860", "::1")
    assert not AllowedHosts("127.0.0.1", 7860).serves(f"{socket.gethostname()}.example", "127.0.0.1")
    for wrong in ("http://studio.example", "a b", "*", "studio.example/path", ""):
        with pytest.raises(InputError, match="--allowed-hosts takes names such as"):
            AllowedHosts("127.0.0.1", 7860, [wrong])


def test_files_go_when_nobody_uses_them(tmp_path: Path) -> None:
    clock = Clock()
    uploads = UploadFolder(tmp_path, clock)

    def put(name: str, age: float, size: int = 10) -> Path:
        path = tmp_path / name / "file.png"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
        os.utime(path, (clock.now - age,) * 2)
        return path

    page = put("page", 10**6)
    uploads.keep_present()
    old, new = put("old", upload_folder.OLDEST + 1), put("new", 1)
    assert uploads.tidy(10)
    assert [path.exists() for path in (page, old, old.parent, new)] == [True, False, False, True]
    longest, shorter = (
        put("longest", 500, upload_folder.LARGEST_TOTAL // 2),
        put("shorter", 400, upload_folder.LARGEST_TOTAL // 2),
    )
    clock.now = time.time()
    for path, age in ((longest, 500), (shorter, 400)):
        os.utime(path, (clock.now - age,) * 2)
    assert uploads.holds(str(longest))  # used now: the other goes first
    assert uploads.tidy(upload_folder.LARGEST_TOTAL // 4)
    assert longest.exists()
    assert not shorter.exists()
    put("young", 1, upload_folder.LARGEST_TOTAL // 2)
    assert not uploads.tidy(upload_folder.LARGEST_TOTAL // 4)  # refused: these are of the last minute


def test_nobody_sends_more_than_their_share(tmp_path: Path) -> None:
    clock = Clock()
    uploads = UploadFolder(tmp_path, clock)
    assert uploads.charge("a", upload_folder.LARGEST_SHARE)
    assert not uploads.charge("a", 1)
    assert uploads.charge("b", 1)
    clock.now += upload_folder.OLDEST + 1
    assert uploads.charge("a", 1)
    for n in range(3000):
        uploads.charge(f"10.{n // 250}.{n % 250}.1", 1)
    assert len(uploads._uploaded) == upload_folder.MAX_CLIENTS


def test_only_files_below_the_folder_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("1", encoding="utf-8")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "a/good").write_text("1", encoding="utf-8")
    uploads = UploadFolder(folder)
    assert uploads.holds(str(folder / "a/good"))
    outside = (
        tmp_path / "secret",
        folder / "link",
        folder / "../secret",
        folder,
        "x",
        "",
        "http://a/b",
        "a\0b",
        "x" * 10_000,
        f"{folder}-evil/x",
    )
    for path in outside:
        assert not uploads.holds(str(path)), path


def test_what_a_visitor_brought_goes_with_them(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path)
    for name in ("mine", "ours"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"1")
    for session, name in (("me", "mine"), ("me", "ours"), ("you", "ours")):
        uploads.register(session, str(tmp_path / name / "a.png"))
    uploads.register("me", "/etc/hostname")
    uploads.remove_session("me")
    uploads.remove_session("nobody")
    assert not (tmp_path / "mine").exists()
    assert (tmp_path / "ours/a.png").exists()


HOLD = """
import sys, time
from pathlib import Path
from purrception.studio.upload_folder import process_folder
with process_folder(Path(sys.argv[1])) as folder:
    (folder / "brought").write_bytes(b"1")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_each_process_has_a_folder_and_those_of_dead_ones_go(tmp_path: Path) -> None:
    (tmp_path / "of an earlier version").mkdir()
    (tmp_path / "tmp_of_it").write_bytes(b"1")
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert {path.name for path in tmp_path.iterdir()} == {theirs.parent.name}
        with process_folder(tmp_path) as mine:
            assert (theirs / "brought").exists()
            assert list(mine.iterdir()) == []
        assert not mine.parent.exists()
        assert (theirs / "brought").exists()
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate(timeout=60)
    with process_folder(tmp_path) as mine:
        assert list(tmp_path.iterdir()) == [mine.parent]


def test_the_process_contacts_nobody() -> None:
    probe = """
import socket
from purrception.studio.server import forbid_connections
own = socket.create_server(("127.0.0.1", 0))
forbid_connections()
for call in (
    lambda: socket.getaddrinfo("looked-up.example", 80),
    lambda: socket.gethostbyname("looked-up.example"),
    lambda: socket.create_connection(("127.0.0.1", own.getsockname()[1])),
    lambda: socket.socket().connect(own.getsockname()),
):
    try:
        call()
    except PermissionError as error:
        print(error)
"""
    done = subprocess.run([python(), "-c", probe], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split("\n") == ["the studio contacts no other machine"] * 4 + [""]


@pytest.fixture
def slow_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server with the studio's connections and short limits; it answers with the body, or with very much."""
    uvicorn = pytest.importorskip("uvicorn")
    from purrception.studio import connections

    for name in ("HEAD_SECONDS", "BODY_SECONDS", "READING_SECONDS"):
        monkeypatch.setattr(connections, name, 1.0)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/later":
            await asyncio.sleep(2.5)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2000 if scope["path"] == "/much" else 1):
            await send({"type": "http.response.body", "body": body or bytes(2**16), "more_body": True})
        await send({"type": "http.response.body"})

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(answer, http=connections.WatchedProtocol, ws="none", lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield listening.getsockname()
    server.should_exit = server.force_exit = True
    thread.join(30)
    assert not connections.WatchedProtocol._waiting


def ended(connection: socket.socket, patience: float = 30) -> bytes:
    """What the server says until it closes."""
    connection.settimeout(patience)
    said = b""
    try:
        while chunk := connection.recv(2**16):
            said += chunk
    except ConnectionError:
        pass
    return said


def test_connections_that_dawdle_are_closed(slow_server: tuple[str, int]) -> None:
    head, post = b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"
    with contextlib.ExitStack() as opened:

        def connect(words: bytes) -> socket.socket:
            one = opened.enter_context(socket.create_connection(slow_server))
            one.sendall(words)
            return one

        slow = {words: connect(words) for words in (b"", b"G", head, post)}
        again = connect(post + b"defghi")
        deaf = connect(head.replace(b"/", b"/much", 1) + b"\r\n")  # asks for very much and does not read it
        began = time.monotonic()
        # that the server takes its time is nobody's fault
        patient = connect(head.replace(b"/", b"/later", 1) + b"Connection: close\r\n\r\n")
        assert b"abcdefghi" in again.recv(1000) + again.recv(1000)
        again.sendall(b"GET")  # a second request on a connection has no more time
        for words, one in slow.items():
            assert ended(one) == b"", words
        ended(again)
        assert b"200 OK" in ended(patient)
        time.sleep(max(began + 3 - time.monotonic(), 0))
        assert len(ended(deaf)) < 2000 * 2**16


def test_of_too_many_that_wait_the_longest_waiting_goes(
    slow_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from purrception.studio import connections

    monkeypatch.setattr(connections, "HEAD_SECONDS", 60.0)
    monkeypatch.setattr(connections.WatchedProtocol, "max_waiting", 5)
    crowd = [socket.create_connection(slow_server) for _ in range(8)]
    for one in crowd[:3]:
        assert ended(one) == b""
    crowd[3].sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"200 OK" in ended(crowd[3])
    for one in crowd:
        one.close()


def test_a_painting_has_few_layers_and_few_wait() -> None:
    gradio = pytest.importorskip("gradio")
    from purrception.studio.painting_limits import MAX_PAINTINGS, limit_paintings

    limit_paintings()
    assert gradio.ImageEditor.accept_blobs.__name__ == "accept_blobs"  # its name is part of the page
    editor = gradio.ImageEditor()

    def send(painting: str, layer: str) -> None:
        sent = {"type": "layer", "index": layer, "id": painting}
        editor.accept_blobs(SimpleNamespace(data=sent, files=[("a.png", b"1")]))

    for layer in ("10000000000", "4", "-1", "1e3", "²"):
        with pytest.raises(gradio.Error, match="at most 4 layers"):
            send("a", layer)
    for n in range(20):
        send(str(n), "0")
    assert list(editor.blob_storage) == [str(n) for n in range(20 - MAX_PAINTINGS, 20)]
