"""The server behind the page: uploads, many visitors at once, passwords, ports, and where it writes."""

from __future__ import annotations

import re
import shutil
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from purrception import PurrceptionPipeline
from purrception.cli import main
from purrception.studio.session import display
from tests import forked
from tests.generation.test_image_processor import make_bad_pictures
from tests.studio.conftest import Server, start_studio, stop_studio

gradio_client = pytest.importorskip("gradio_client")

VISITORS = 20
OTHERS = {"chromium", ".ipython", ".triton"}
"""What else writes into the home of the tests."""


def visitor(server: Server, **options: Any) -> Any:
    return gradio_client.Client(server.url, verbose=False, download_files=tempfile.mkdtemp(), **options)


def generate(client: Any, name: str, seed: int, schedule: str = "") -> Any:
    """Two images of a class; (gallery, scale, cost, command, download)."""
    shown = [3, "euler", 1.0, schedule, 1.0]
    behind = ["uniform", 0, 1.0, 0.0, 1.0, "logits", "nearest", 0.5, 1e-4, False]
    return client.predict(name, 2, seed, *shown, *behind, "Images", api_name="/generate")


def resident(server: Server) -> int:
    """Megabytes that the server holds."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]


def test_twenty_visitors_at_once_each_get_their_own(studio: Server) -> None:
    pipeline = PurrceptionPipeline.from_pretrained(studio.run / "pipeline")
    clients = [visitor(studio) for _ in range(VISITORS)]
    generate(clients[0], "0", 0)
    before = resident(studio)
    with ThreadPoolExecutor(VISITORS) as pool:
        asked = [pool.submit(generate, client, str(i % 10), i) for i, client in enumerate(clients)]
        answers = [one.result(timeout=240) for one in asked]
    for number, (gallery, _, _, command, _) in enumerate(answers):
        assert (f"--seed {number}" in str(command)) == (number > 0)
        wanted = pipeline(class_labels=[number % 10] * 2, num_inference_steps=3, seed=number)
        for item, image in zip(gallery, wanted.images, strict=True):
            shown = np.asarray(Image.open(item["image"]).convert("RGB")).astype(int)
            assert np.abs(shown - np.asarray(display(image)).astype(int)).max() <= 1
    assert resident(studio) - before < 200


def test_mistakes_are_told_in_a_sentence(studio: Server) -> None:
    client = visitor(studio)
    with pytest.raises(Exception, match="Unknown temperature schedule &#x27;linaer&#x27;: did you mean"):
        generate(client, "3", 0, schedule="linaer:1:0.7")
    assert generate(client, "3", 0)  # and the page goes on


@pytest.mark.parametrize("kind", ["text", "empty", "huge", "animated", "cmyk", "cut"])
def test_uploads_that_are_no_ordinary_pictures_are_refused(studio: Server, tmp_path: Path, kind: str) -> None:
    path, message = make_bad_pictures(tmp_path)[kind]
    with pytest.raises(Exception, match=message):
        visitor(studio).predict(gradio_client.handle_file(path), api_name="/upload")


def test_a_path_where_a_file_belongs_is_refused(studio: Server) -> None:
    client = visitor(studio)
    for path in ("/etc/hostname", str(studio.run), str(studio.run / "config.yaml"), "../../tiny/config.yaml"):
        with pytest.raises(Exception, match=r"."):
            client.predict({"path": path, "meta": {"_type": "gradio.FileData"}}, api_name="/upload")


def test_a_good_upload_is_taken(studio: Server, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "red.png")
    assert visitor(studio).predict(gradio_client.handle_file(tmp_path / "red.png"), api_name="/upload")


def test_it_writes_into_the_folder_of_the_run_alone(studio: Server, tiny_run: Path, own_home: Path) -> None:
    generate(visitor(studio), "1", 1)
    outside = [path for path in studio.around.rglob("*") if path.is_file() and studio.run not in path.parents]
    assert [path for path in outside if "guard" not in path.parts] == []
    at_home = {path for path in own_home.rglob("*") if path.is_file() and not OTHERS & set(path.parts)}
    assert not at_home
    mine = {path.relative_to(studio.run).parts[0] for path in studio.run.rglob("*") if path.is_file()}
    theirs = {path.relative_to(tiny_run).parts[0] for path in tiny_run.rglob("*") if path.is_file()}
    assert mine == theirs | {"studio", "evaluation"}
    by_imports = Path(forked.ENVIRONMENT["LOOKUPS"])
    for lookups in (studio.lookups, by_imports):
        assert not lookups.exists(), lookups.read_text(encoding="utf-8")


def test_a_password_is_asked_for(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run / "pipeline", tmp_path / "pipeline")
    server = start_studio(tmp_path / "pipeline", tmp_path, "--password", "sesame")
    try:
        with pytest.raises(Exception, match=r"401|[Aa]uth|[Ll]ogin|[Cc]redentials"):
            visitor(server, auth=("me", "wrong"))
        with pytest.raises(Exception, match=r"401|[Aa]uth|[Ll]ogin"):
            visitor(server)
        assert generate(visitor(server, auth=("me", "sesame")), "3", 0)
        port = re.search(r":(\d+)$", server.url)
        assert port is not None
        assert main(["studio", str(tmp_path / "pipeline"), "--port", port[1]]) == 2  # taken
    finally:
        stop_studio(server)


def test_mistakes_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_run: Path) -> None:
    shutil.copytree(tiny_run / "pipeline", tmp_path / "pipeline")
    for words, message in (
        (["nowhere"], "no run at nowhere"),
        ([str(tmp_path / "pipeline"), "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        ([str(tmp_path / "pipeline"), "--prot", "1"], "did you mean '--port'?"),
    ):
        assert main(["studio", *words]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert "[Errno" not in told
    assert socket.gethostname()


def test_without_gradio_it_says_what_to_install(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["studio", str(tiny_run)]) == 2
    assert "pip install 'gradio<7,>=6'" in capsys.readouterr().err
