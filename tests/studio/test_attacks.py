"""Attacks on a running studio."""

from __future__ import annotations

import http.client
import json
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.forked import python
from tests.studio.conftest import Server, start_studio, stop_studio

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")

PAGE = "GET / HTTP/1.1"
UPLOAD = "/gradio_api/upload"
SLOW, AT_ONCE = 1500, 200


@pytest.fixture(scope="module")
def locked(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A studio behind a password and a proxy."""
    around = tmp_path_factory.mktemp("locked")
    shutil.copytree(tiny_run / "pipeline", around / "pipeline")
    server = start_studio(
        around / "pipeline", around, "--password", "sesame", "--allowed-hosts", "studio.example", "tunnel:9000"
    )
    yield server
    stop_studio(server)


def place(server: Server) -> tuple[str, int]:
    parts = urlsplit(server.url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def ask(server: Server, *lines: str, body: bytes = b"") -> tuple[int, str]:
    """Send a request as it stands, with the right Host if it names none; (status, head in small letters)."""
    named = any(line.lower().startswith("host:") or line == "no host" for line in lines)
    head = [line for line in lines if line != "no host"]
    head += [] if named else ["Host: {}:{}".format(*place(server))]
    head += ["Connection: close"]
    with socket.create_connection(place(server), timeout=60) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in (*head, "")).encode() + body)
        received = b""
        while b"\r\n\r\n" not in received and (chunk := connection.recv(65536)):
            received += chunk
    text = received.partition(b"\r\n\r\n")[0].decode("latin-1")
    return int(text.split()[1]) if text else 0, text.lower()


def post(server: Server, path: str, body: Any, **headers: str) -> tuple[int, str]:
    """POST a body, as JSON unless it is bytes or an iterator of chunks; (status, answer)."""
    connection = http.client.HTTPConnection(*place(server), timeout=60)
    content = json.dumps(body).encode() if isinstance(body, dict | list) else body
    named = {"Content-Type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    connection.request("POST", path, content, named, encode_chunked=not isinstance(content, bytes))
    answer = connection.getresponse()
    said = answer.read().decode()
    connection.close()
    return answer.status, said


def file_of(path: str, url: str | None = None) -> dict[str, Any]:
    """A file as gradio's page names one."""
    return {"path": path, "url": url, "meta": {"_type": "gradio.FileData"}}


def test_it_answers_under_its_own_names_alone(studio: Server, locked: Server) -> None:
    port = place(studio)[1]
    for host in (
        f"127.0.0.1:{port}",
        f"LocalHost:{port}",
        f"[::1]:{port}",
        f"[0:0:0:0:0:0:0:1]:{port}",
        "localhost",
    ):
        assert ask(studio, PAGE, f"Host: {host}")[0] == 200, host
    foreign = (
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.evil.example:{port}",
        "localhost:1",
        "",
        "[::1",
        "*",
        f"me@localhost:{port}",
        f"localhost:{port}:{port}",
        "192.0.2.1",
        "studio.example",
    )
    for host in foreign:
        assert ask(studio, PAGE, f"Host: {host}")[0] == 421, host
        assert ask(studio, PAGE, f"X-Forwarded-Host: {host or 'x'}")[0] == 421, host
    assert ask(studio, "GET / HTTP/1.0", "no host")[0] == 400
    assert ask(studio, PAGE, f"Host: localhost:{port}", "Host: evil.example")[0] == 400
    assert ask(studio, "GET http://evil.example/ HTTP/1.1")[0] == 404
    for host in ("studio.example", "Studio.Example", f"studio.example:{place(locked)[1]}", "tunnel:9000"):
        assert ask(locked, PAGE, f"Host: {host}")[0] == 200, host
    assert ask(locked, PAGE, "Host: studio.example:1")[0] == 421


def test_other_pages_are_refused(studio: Server, locked: Server) -> None:
    own, port = "{}:{}".format(*place(studio)), place(studio)[1]
    for origin in (f"http://{own}", f"http://localhost:{port}"):
        status, head = ask(studio, PAGE, f"Origin: {origin}", "Sec-Fetch-Site: same-origin")
        assert status == 200
        assert "access-control-" not in head
        assert "x-frame-options: sameorigin" in head
        assert "x-content-type-options: nosniff" in head
    foreign = (
        "http://evil.example",
        "null",
        "",
        "http://localhost",
        "http://localhost:3000",
        f"ftp://{own}",
        f"http://evil.example:{port}",
        f"http://{own}.evil.example",
        "https://studio.example",
    )
    for origin in foreign:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
            status, head = ask(studio, f"{method} / HTTP/1.1", f"Origin: {origin}", "Content-Length: 0")
            assert status == 403, (method, origin)
            assert "access-control-" not in head
    assert ask(studio, PAGE, f"Origin: http://{own}", "Origin: http://evil.example")[0] == 403
    assert ask(studio, PAGE, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")[0] == 200  # a link to it
    assert ask(studio, PAGE, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors")[0] == 403
    assert ask(studio, "GET /logout HTTP/1.1", "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: navigate")[0] == 403
    assert (
        ask(studio, "GET /gradio_api/queue/data?session_hash=x HTTP/1.1", "Origin: http://evil.example")[0] == 403
    )
    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    assert ask(studio, PAGE, *upgrade, "Origin: http://evil.example")[0] == 403
    picture = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc\r\n--x--\r\n'
    form = {"Content_Type": "multipart/form-data; boundary=x"}
    assert post(studio, UPLOAD, picture, **form, Origin="http://evil.example")[0] == 403
    assert post(studio, UPLOAD, picture, **form, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 403
    assert post(studio, UPLOAD, picture, **form, Origin=f"http://{own}")[0] == 200
    for host in (f"127.0.0.1:{place(locked)[1]}", "studio.example"):  # as a proxy passes it on
        assert ask(locked, PAGE, f"Host: {host}", "Origin: https://studio.example")[0] == 200


def test_nothing_is_fetched(studio: Server) -> None:
    contacts = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(1)
        at = f"127.0.0.1:{other.getsockname()[1]}"
        addresses = [f"http://{at}/a.png", "http://looked-up.example/a.png", "https://looked-up.example/a.png"]
        for address in addresses:
            for file in (file_of("x", address), file_of(address), file_of("/etc/hostname", address)):
                for body in ({"data": [file]}, {"data": [[{"image": file}]]}, {"data": [{"background": file}]}):
                    for route in ("call/upload", "call/v2/upload", "run/upload", "api/upload", "queue/join"):
                        asked = {**body, "path": None, "fn_index": 0, "session_hash": "s"}
                        assert post(studio, f"/gradio_api/{route}", asked)[0] == 400, (route, file)
            for route in ("file=", "file/", "proxy=", "run-history/buckets?at="):
                assert ask(studio, f"GET /gradio_api/{route}{address} HTTP/1.1")[0] in (403, 404)
        for route in ("/gradio_api/vibe-starter-queries", "/gradio_api/run-history/connect"):
            assert post(studio, route, {})[0] == 404
        for route in (
            "/monitoring",
            "/gradio_api/deep_link?session_hash=x",
            "/docs",
            "/openapi.json",
            "/../etc/passwd",
        ):
            assert ask(studio, f"GET {route} HTTP/1.1")[0] == 404
        with pytest.raises(TimeoutError):
            contacts.append(other.accept())
    assert not contacts
    assert not studio.lookups.exists(), studio.lookups.read_text(encoding="utf-8")
    assert ask(studio, "GET /gradio_api/file=/etc/hostname HTTP/1.1")[0] == 403


def test_a_body_has_limits_whatever_it_says_about_its_length(studio: Server) -> None:
    def picture() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(25):
            yield bytes(2**20)

    form = {"Content_Type": "multipart/form-data; boundary=x"}
    try:
        status = post(studio, UPLOAD, picture(), **form)[0]
    except (http.client.HTTPException, OSError):  # cut off while it was still sending
        status = 413
    assert status == 413
    for length in (2**26, 10**30):
        declared = ("Content-Type: multipart/form-data; boundary=x", f"Content-Length: {length}")
        assert ask(studio, f"POST {UPLOAD} HTTP/1.1", *declared)[0] in (400, 413)
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\na\r\n'
    assert post(studio, UPLOAD, part * 20 + b"--x--\r\n", **form)[0] == 413
    assert post(studio, UPLOAD, part * 2 + b"--x--\r\n", **form)[0] == 200
    two = [f"Content-Type: multipart/form-data; boundary={name}" for name in ("x", "other")]
    many = part * 20 + b"--x--\r\n"
    assert ask(studio, f"POST {UPLOAD} HTTP/1.1", *two, f"Content-Length: {len(many)}", body=many)[0] == 413
    assert post(studio, "/gradio_api/queue/join", b"[" * 100_000)[0] == 400
    assert post(studio, "/gradio_api/queue/join", b'"' + b"x" * 2**21 + b'"')[0] == 413
    assert post(studio, "/gradio_api/component_server", bytes(2**24), **form)[0] == 413


def test_without_the_password_nothing_is_taken(locked: Server) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\na\r\n--x--\r\n'
    for cookie in ("", "access-token-unsecure-x=", "a=b; access-token-x=guessed"):
        for path in (UPLOAD, "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/component_server"):
            status, said = post(locked, path, part, Content_Type="multipart/form-data; boundary=x", Cookie=cookie)
            assert status == 401, (path, said)
        for path in (
            "heartbeat/x",
            "queue/data?session_hash=x",
            "file=/etc/hostname",
            "upload_progress?upload_id=x",
        ):
            assert ask(locked, f"GET /gradio_api/{path} HTTP/1.1", f"Cookie: {cookie}")[0] == 401, path


def login(server: Server, password: str, **headers: str) -> int:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    return post(server, "/login", f"username=me&password={password}".encode(), **form, **headers)[0]


def test_wrong_passwords_make_one_wait_and_nobody_else(locked: Server) -> None:
    with ThreadPoolExecutor(30) as pool:
        tried = [pool.submit(login, locked, f"wrong{n}", X_Forwarded_For=f"192.0.2.{n}") for n in range(30)]
        page = pool.submit(ask, locked, PAGE)
        assert page.result(timeout=60)[0] == 200
        answers = Counter(one.result(timeout=60) for one in tried)
    assert set(answers) == {400, 429}
    assert answers[400] <= 5
    while (answer := login(locked, "wrong")) != 429:
        assert answer == 400
    for _ in range(100):
        if (answer := login(locked, "sesame")) != 429:
            break
        time.sleep(0.3)
    assert answer == 200
    assert login(locked, "wrong") == 400  # a right one makes up for the others


def test_a_crowd_and_slow_connections_keep_nobody_from_an_answer(studio: Server) -> None:
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < SLOW + AT_ONCE + 500:
        pytest.skip("this system allows too few connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    half = "GET / HTTP/1.1\r\nHost: {}:{}\r\nX-Slow: ".format(*place(studio)).encode()
    whole = "GET / HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\n\r\n".format(*place(studio)).encode()
    crowd = selectors.DefaultSelector()
    try:
        for words in [half] * SLOW + [whole] * AT_ONCE:
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(place(studio))
            crowd.register(one, selectors.EVENT_WRITE, words)
        answers: Counter[bytes] = Counter()
        step(crowd, answers, 1)
        began = time.monotonic()
        while ask(studio, PAGE)[0] == 503 and time.monotonic() - began < 20:
            step(crowd, answers, 0.5)
        assert time.monotonic() - began < 10
        until = time.monotonic() + 60
        while answers[whole] < AT_ONCE and time.monotonic() < until:
            step(crowd, answers, 0.5)
        assert answers[whole] == AT_ONCE  # each was answered, or told that it is too busy
        while answers[half] < SLOW and time.monotonic() < until:
            step(crowd, answers, 0.5)
        assert answers[half] == SLOW  # none is kept for ever
    finally:
        for key in tuple(crowd.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        crowd.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))


def step(crowd: selectors.BaseSelector, ended: Counter[bytes], seconds: float) -> None:
    """Send what each of a crowd has to say, and read answers, for a while; count those that the server ends."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for key, _ in crowd.select(0.1):
            one = key.fileobj
            assert isinstance(one, socket.socket)
            try:
                if key.events == selectors.EVENT_WRITE:
                    one.send(key.data)
                    crowd.modify(one, selectors.EVENT_READ, key.data)
                    continue
                over = not one.recv(65536)
            except ConnectionError:
                over = True
            if over:
                ended[key.data] += 1
                crowd.unregister(one)
                one.close()


def test_two_studios_on_one_run_leave_each_other_their_files(locked: Server) -> None:
    mine = list((locked.run / "studio/uploads").iterdir())
    (mine[0] / "files/brought.png").write_bytes(b"1")
    assert "sesame" not in (mine[0] / ".lock").read_text(encoding="utf-8")
    second = start_studio(locked.run, locked.around)
    try:
        assert (mine[0] / "files/brought.png").exists()
        assert len(list((locked.run / "studio/uploads").iterdir())) == 2
    finally:
        stop_studio(second)
    assert list((locked.run / "studio/uploads").iterdir()) == mine


def test_a_studio_that_is_ended_while_it_starts_leaves_no_folder(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "pipeline", tmp_path / "pipeline")
    uploads = tmp_path / "pipeline/studio/uploads"
    starting = subprocess.Popen([python(), "-m", "purrception", "studio", "pipeline"], cwd=tmp_path)
    while not list(uploads.glob("*/files")):
        assert starting.poll() is None
        time.sleep(0.01)
    starting.terminate()
    assert starting.wait(timeout=60) == 128 + signal.SIGTERM
    assert list(uploads.iterdir()) == []
