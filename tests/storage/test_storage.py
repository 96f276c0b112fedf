"""Files whole or not at all, one writer, digests, and reading with care."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from purrception.storage import (
    DIGESTS_FILE,
    LOCK_FILE,
    append_line,
    check_digests,
    is_unused,
    load_optimizer_state,
    locks,
    one_writer,
    optimizer_state,
    output_folder,
    plain_name,
    read_json,
    reading,
    unused_folder,
    whole_file,
    whole_folder,
    write_digests,
    write_file,
)
from purrception.storage.hub import HubOptions, download, local_folder
from purrception.storage.model_folder import check_variant, only_variant, variants_in
from purrception.utils.errors import InputError


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.yaml"
    write_file(file, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*config\.yaml \(No space left on device\)"):
        write_file(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert file.read_text() == "old"


def test_an_error_of_the_writer_itself_passes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a") as partial:
        partial.write_text(str(1 / 0))
    assert not list(tmp_path.iterdir())


def test_a_library_s_own_word_for_a_full_disk_is_understood(tmp_path: Path) -> None:
    error = RuntimeError('Error while serializing: I/O error: Os { "No space" (os error 28) }')
    with pytest.raises(InputError, match="No space left on device"), whole_file(tmp_path / "a.safetensors"):
        raise error


def test_a_folder_appears_whole_and_without_its_lock(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "a").write_text("a")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "deep", "a"]


def test_a_folder_that_fails_leaves_nothing_and_one_that_is_there_stays(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space"), whole_folder(tmp_path / "out"):
        full()
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InputError, match="already there"), whole_folder(tmp_path / "out"):
        pass
    (tmp_path / "out" / "mine").rename(tmp_path / "out" / ".lock")  # which a killed writer leaves behind
    with whole_folder(tmp_path / "out") as partial:
        (partial / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_a_folder_that_may_be_kept_takes_its_name_when_its_writer_is_interrupted(tmp_path: Path) -> None:
    def begin(name: str, end: Callable[[], None]) -> None:
        with whole_folder(tmp_path / name, keep=True) as partial:
            write_file(partial / "first", "whole")
            end()

    with pytest.raises(KeyboardInterrupt):
        begin("out", interrupted)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "first"]
    with pytest.raises(InputError, match="No space"):
        begin("full", full)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "deep/new", keep=True):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "first"]


def test_inside_a_folder_that_is_ours_we_may_ask_for_it_again(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as outer:
        with whole_folder(tmp_path / "out") as inner:
            assert inner == outer
            write_file(inner / "a", "a")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out/a").read_text() == "a"


def test_through_a_link_the_folder_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large")
    with whole_folder(tmp_path / "out") as partial:
        write_file(partial / "a", "a")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "large/a").read_text() == "a"


def test_a_file_that_cannot_be_read_meanwhile_is_not_one_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for folder, error in ((tmp_path / "elsewhere", IsADirectoryError), (tmp_path, InputError)):
        with pytest.raises(error), whole_folder(tmp_path / "made/out"):
            raise IsADirectoryError(
                errno.EISDIR, "Is a directory", str(folder / ("made/out" * (folder == tmp_path)))
            )


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append_line(file, "one")
    file.write_text("one\ntw")
    append_line(file, "three")
    assert file.read_text() == "one\ntw\nthree\n"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 3, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*rows\.jsonl \(File too large\)"):
            append_line(file, "a longer one")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_text() == "one\ntw\nthree\n"


def test_what_a_killed_writer_had_begun_of_a_file_is_no_use_of_a_folder(tmp_path: Path) -> None:
    for name in (LOCK_FILE, ".config.yaml.123.partial"):
        (tmp_path / name).touch()
    assert is_unused(tmp_path)
    (tmp_path / "config.yaml").touch()
    assert not is_unused(tmp_path)
    assert is_unused(tmp_path, but=("config.yaml",))
    assert not is_unused(tmp_path / "config.yaml")


HOLDER = """
import sys, time
from pathlib import Path
from purrception.storage import one_writer, whole_folder
with {frame}:
    print("here", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("frame", ["one_writer(Path(sys.argv[1]))", "whole_folder(Path(sys.argv[1]))"])
def test_a_second_process_is_told_who_writes_and_a_crash_frees_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame: str
) -> None:
    place = tmp_path / "run"
    program = HOLDER.format(frame=frame)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(place)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "here\n"
        monkeypatch.setattr(locks, "PATIENCE", 0.2)
        enter = one_writer if frame.startswith("one") else whole_folder
        with (
            pytest.raises(InputError, match=rf"process {holder.pid} on .* is writing to .*run: wait"),
            enter(place),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    monkeypatch.setattr(locks, "PATIENCE", 5.0)
    with enter(place):
        pass
    assert is_unused(place)


def test_a_lock_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", full)
    with one_writer(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()


def test_the_same_process_may_ask_again(tmp_path: Path) -> None:
    with one_writer(tmp_path), one_writer(tmp_path / "." / "x" / ".."):
        pass
    assert (tmp_path / LOCK_FILE).read_text() == ""


def test_a_writer_clears_what_a_killed_one_had_begun_and_leaves_what_others_hold(tmp_path: Path) -> None:
    (tmp_path / ".rows.jsonl.123.partial").touch()
    (tmp_path / ".tokenizer.partial").mkdir()
    (tmp_path / "rows.jsonl").touch()
    with one_writer(tmp_path):
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {LOCK_FILE, ".tokenizer.partial", "rows.jsonl"}


def begin_and_fail(file: Path) -> None:
    file.touch()
    raise ZeroDivisionError


def test_a_folder_that_was_made_in_vain_goes_and_no_other(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), one_writer(tmp_path / "new" / "run"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with pytest.raises(ZeroDivisionError), one_writer(tmp_path / "mine"):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), one_writer(tmp_path / "begun"):
        begin_and_fail(tmp_path / "begun" / "config.yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "mine"]


def remove_and_fail(folder: Path) -> None:
    shutil.rmtree(folder)
    raise ZeroDivisionError


def test_a_writer_s_error_is_told_whatever_became_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), one_writer(tmp_path / "new"):
        remove_and_fail(tmp_path / "new")


@pytest.mark.parametrize("words", [["--password", "it's secret"], ["--password=it's secret"]])
def test_a_lock_tells_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/purrception", "studio", "run", *words, "--port", "1"])
    with one_writer(tmp_path):
        told = (tmp_path / LOCK_FILE).read_text(encoding="utf-8")
    assert "secret" not in told
    assert "purrception studio run" in told
    assert "--port 1" in told


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc/passwd", "a/b", "..\\b", "a\0b", "a\nb", 7, None, "a" * 256]
)
def test_a_name_is_never_a_path(name: object) -> None:
    with pytest.raises(InputError, match="plain file names"):
        plain_name(name, "manifest.json")
    assert plain_name("shard-00001.safetensors", "manifest.json") == "shard-00001.safetensors"


def test_digests_are_sha256sum_s_and_notice_one_bit(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    file = tmp_path / "part" / "weights.safetensors"
    file.write_bytes(bytes(1000))
    (tmp_path / "README.md").write_text("card")
    write_digests(tmp_path, mine=lambda name: name != "README.md")
    done = subprocess.run(["sha256sum", "--check", DIGESTS_FILE], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "part/weights.safetensors: OK\n"
    check_digests(tmp_path)
    (tmp_path / "README.md").write_text("a better card")
    check_digests(tmp_path)
    content = bytearray(bytes(1000))
    content[500] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.safetensors is damaged or altered"):
        check_digests(tmp_path)
    check_digests(tmp_path, mine=lambda name: name.endswith(".json"))
    os.environ["PURRCEPTION_SKIP_DIGESTS"] = "1"
    try:
        check_digests(tmp_path)
    finally:
        del os.environ["PURRCEPTION_SKIP_DIGESTS"]
    file.unlink()
    with pytest.raises(InputError, match="is missing"):
        check_digests(tmp_path)
    check_digests(tmp_path, missing=False)


@pytest.mark.parametrize("line", [f"{'0' * 64}  ../../etc/passwd\n", f"{'0' * 64}  /etc/passwd\n", "x\n", ""])
def test_an_index_that_leads_elsewhere_or_nowhere_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / DIGESTS_FILE).write_text(line)
    with pytest.raises(InputError, match=DIGESTS_FILE):
        check_digests(tmp_path)


@dataclass(frozen=True)
class Two:
    number: int
    text: str = ""


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"number": "1"}', b'{"number": 1.5}', b"[" * 100_000, b"\xff\xfe", b'{"number": NaN}'],
)
def test_json_that_is_something_else_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "two.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"two\.json is not a pair that can be read: .*; make it again$"):
        read_json(file, Two, "a pair", "make it again")
    file.write_text(json.dumps({"number": 1, "text": "a"}))
    assert read_json(file, Two, "a pair") == Two(1, "a")


def test_whatever_a_parser_raises_names_the_file() -> None:
    for error in (RecursionError("maximum depth"), MemoryError(), KeyError("sides"), ZeroDivisionError("1/0")):
        with pytest.raises(InputError, match=r"x\.tar is not a tar that can be read"), reading("a tar", "x.tar"):
            raise error


def test_an_output_folder_is_the_one_asked_for_or_the_next_number(tmp_path: Path) -> None:
    (tmp_path / "generated/007").mkdir(parents=True)
    with output_folder("", tmp_path / "generated") as folder, whole_folder(folder) as partial:
        (partial / "grid.png").write_bytes(b"")
        assert not folder.exists()
    assert (folder / "grid.png").is_file()
    assert folder.name == "008"
    with output_folder(str(tmp_path / "here"), tmp_path / "generated") as chosen:
        assert chosen == tmp_path / "here"
    with pytest.raises(ZeroDivisionError), output_folder(str(tmp_path / "failed"), tmp_path):
        _ = 1 / 0
    assert not (tmp_path / "failed").exists()


def test_an_output_folder_that_is_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert unused_folder(tmp_path / "new") == tmp_path / "new"
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="already there and not empty"):
        unused_folder(tmp_path)
    with pytest.raises(InputError, match="already there and not empty"), output_folder(str(tmp_path), tmp_path):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_an_optimizer_goes_on_from_its_state_by_names() -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        return network, torch.optim.AdamW(network.parameters(), lr=0.1)

    def train(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        network(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    network, optimizer = made()
    train(network, optimizer)
    live = optimizer_state(optimizer, dict(network.named_parameters()))
    state = {name: value.clone() for name, value in live.items()}
    assert {"0.weight/exp_avg", "0.weight/exp_avg_sq", "1.bias/step"} <= state.keys()
    again, fresh = made()
    again.load_state_dict(network.state_dict())
    load_optimizer_state(fresh, dict(again.named_parameters()), state)
    train(network, optimizer)
    train(again, fresh)
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_on_the_hub_is_downloaded_without_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, list[str]]] = []

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str], **_: object) -> str:
        asked.append((name, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert download("owner/name/sub/folder", "model", ["*.json"], HubOptions("v1")) == tmp_path / "sub/folder"
    assert asked == [("owner/name", "v1", ["sub/folder/*.json"])]
    local_folder("hub:owner/name")
    assert not any(pattern.endswith((".py", "*", ".bin")) for pattern in asked[1][2])
    for name in ("hub:name", "hub:owner/name/folder", "hub:../name"):
        with pytest.raises(InputError, match="a pipeline on the hub is hub:owner/name"):
            local_folder(name)
    with pytest.raises(InputError, match="accepted are plain file names"):
        download("owner/name/..", "model", ["*.json"])


def test_the_variants_of_weights_are_read_off_their_names(tmp_path: Path) -> None:
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16-00001-of-00002.bin"):
        (tmp_path / name).touch()
    assert only_variant(tmp_path) == "fp16"
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    assert variants_in(tmp_path) == {None, "fp16"}
    assert only_variant(tmp_path) is None
    check_variant("bf16")
    for variant in ("../fp16", "FP16", "fp 16", "1"):
        with pytest.raises(InputError, match="a variant is a word such as bf16"):
            check_variant(variant)
