"""What is printed to be pasted does what it says: classes by number and by name, and every next step."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from purrception import PurrceptionPipeline
from purrception.cli import main
from purrception.data import DataConfig
from purrception.data.classes import Classes
from purrception.evaluation.tokenizer import report
from purrception.flow import SamplingConfig
from purrception.generation.saving import sample_command
from purrception.utils.errors import InputError
from purrception.utils.text import command_line
from tests.conftest import CLASS_FOLDERS
from tests.forked import python

REPORTED = SimpleNamespace(markdown=lambda: "")
"""What the report of a tokenizer gives, which takes long and has tests of its own."""


def next_command(printed: str) -> list[str]:
    """The words behind ``next:``, without the command's own name."""
    (command,) = re.findall(r"next: purrception (.*?)\)?$", printed.strip(), flags=re.MULTILINE)
    return shlex.split(command)


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (tuple("0123456789"), {"3": 3}),
        (("cat", "dog", "7up"), {"dog": 1, "1": 1, "7up": 2}),
        ((), {"2": 2}),
        (("1", "2", "3"), {"1": 0, "3": 2}),
        (("7", "cat", "0"), {"7": 0, "cat": 1, "0": 2}),
    ],
)
def test_a_text_means_one_class(names: tuple[str, ...], texts: dict[str, int]) -> None:
    classes = Classes(len(names) or 4, names)
    for text, label in texts.items():
        assert classes.label(text) == label
    for label in range(classes.count):
        assert classes.label(label) == label
        assert classes.label(classes.text(label)) == label


def test_a_text_that_would_mean_two_classes_is_refused() -> None:
    with pytest.raises(InputError, match="unknown class '0': known: 1, 2, 3"):
        Classes(3, ("1", "2", "3")).label("0")
    with pytest.raises(InputError, match="class labels are 0 to 2; given 3"):
        Classes(3, ("1", "2", "3")).label(3)
    with pytest.raises(InputError, match="unknown class 'cat': known: labels 0 to 3"):
        Classes(4).label("cat")


def test_a_manifest_draws_its_own_classes_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert main(["sample", "my runs/tiny", "--num", "3", "--steps", "2", "--out", str(tmp_path / "first")]) == 0
    first = json.loads((tmp_path / "first/manifest.json").read_text(encoding="utf-8"))
    assert first["class_names"] == list(CLASS_FOLDERS)
    assert [image["label"] for image in first["images"]] == [0, 1, 2]
    assert first["command"].endswith("--classes 1 2 3 --steps 2")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main([*shlex.split(first["command"])[1:], "--out", "again"]) == 0
    again = json.loads(Path("again/manifest.json").read_text(encoding="utf-8"))
    assert again["images"] == first["images"]
    assert again["command"] == first["command"]
    for image in first["images"]:
        assert (Path("again") / image["file"]).read_bytes() == (tmp_path / "first" / image["file"]).read_bytes()


def test_a_refinement_is_drawn_again(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    options = ["--classes", "2", "3", "--steps", "2", "--threshold", "0.1", "--out", str(tmp_path / "first")]
    assert main(["edit", "refine", "my runs/tiny", *options]) == 0
    first = json.loads((tmp_path / "first/manifest.json").read_text(encoding="utf-8"))
    assert [image["label"] for image in first["images"]] == [1, 2]
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(first["command"])[1:], "--out", "again"]) == 0
    assert json.loads(Path("again/manifest.json").read_text(encoding="utf-8"))["images"] == first["images"]


def test_classes_without_names_are_drawn_again_by_label(tiny_run: Path) -> None:
    """As converted checkpoints have them."""
    pipeline = PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")
    pipeline.register_to_config(class_names=[])
    usual, settings = SamplingConfig(temperature=0.9), SamplingConfig(temperature=0.9, guidance_scale=2.0)
    assert sample_command(pipeline, "run", [3, 3, 7], usual, 0, usual).endswith("run --classes 3 3 7")
    pipeline.transformer.half_backbone = True
    changed = "run --classes 3 --guidance 2.0 --seed 5 --precision bfloat16"
    assert sample_command(pipeline, "run", [3], settings, 5, usual).endswith(changed)


def test_every_next_step_that_is_printed_can_be_taken(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """train → sample; export → sample, and its card's command; tokenizer train → report; prepare → train."""
    monkeypatch.chdir(project)
    folder = tmp_path / "with a space"

    def printed(*words: str | Path) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    few = ["--num", "1", "--steps", "1"]
    printed(*next_command(printed("train", "--resume", "my runs/tiny")), *few, "--out", folder / "a")
    printed(
        *next_command(printed("export", "my runs/tiny", "--out", folder / "export")), *few, "--out", folder / "b"
    )
    card = (folder / "export/README.md").read_text(encoding="utf-8")
    (trained,) = re.findall(r"```bash\npurrception (.*)\n```", card)
    assert str(project) not in card + (folder / "export/config.yaml").read_text(encoding="utf-8")
    words = [{"IMAGES": str(project / "my pictures")}.get(word, word) for word in shlex.split(trained)]
    monkeypatch.chdir(folder / "export")
    assert "first step" in printed(*words, "--dry-run")

    short = ["--training.steps", "1", "--training.batch-size", "4", "--model.codebook-size", "16"]
    short += ["--model.channels", "8", "8", "8", "--data.image-size", "16", "--data.channels", "1"]
    made = folder / "tokenizer"
    printed("tokenizer", "train", project / "my pictures", "--out", made, *short)
    seen: list[DataConfig] = []
    with monkeypatch.context() as patch:
        patch.setattr(report, "report_tokenizer", lambda _, data, *__: seen.append(data) or REPORTED)
        printed(*next_command(printed("tokenizer", "train", "--resume", made)))
    assert (seen[0].source, seen[0].root) == ("folder", str(project / "my pictures"))
    told = printed(
        "prepare", project / "my pictures", "--tokenizer", made, "--out", folder / "tokens", "--image-size", "16"
    )
    words = [{"RECIPE": "digits"}.get(word, word) for word in next_command(told)]
    assert words[:3] == ["train", "digits", "--data.tokens"]
    printed(*words, "--training.steps", "1", "--runs", folder / "runs", "--training.sample-every", "0")


def test_what_is_there_is_gone_on_with_as_printed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    assert main(["train", "tiny.yaml"]) == 2
    (command,) = re.findall(r"by purrception (.*), or choose", capsys.readouterr().err)
    assert main(shlex.split(command)) == 0


def interrupted(cwd: Path, begun: str, *words: str | Path) -> list[str]:
    """What a command says when Ctrl-C ends it, once a path of this pattern is there."""
    command = [python(), "-m", "purrception", *map(str, words)]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 200
    while not list(cwd.glob(begun)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    return said.strip().splitlines()


@pytest.mark.slow
def test_ctrl_c_says_what_goes_on_with_the_work(tiny_run: Path, tmp_path: Path) -> None:
    long = ("--tokenizer.training.steps", "100000", "--tokenizer.training.checkpoint-every", "1")
    said = interrupted(tmp_path, "my runs/a/.tokenizer.partial/checkpoints/*", "train", "digits", "--name", "a",
                       "--runs", "my runs", *long)  # fmt: skip
    assert said[-1] == "purrception: interrupted; go on with: purrception train --resume 'my runs/a'"
    steps = ("--training.steps", "100000", "--training.checkpoint-every", "1", "--out", "mine")
    said = interrupted(tmp_path, "mine/checkpoints/*", "tokenizer", "train", "digits", *steps)
    assert said[-1] == "purrception: interrupted; go on with: purrception tokenizer train --resume mine"
    tokenizer = ("--tokenizer.path", tiny_run / "tokenizer", "--training.steps", "100000", "--points", "40")
    said = interrupted(tmp_path, "both/*/seconds.json", "compare", "digits", "--out", "both", "--num", "20",
                       "--sampling.steps", "1", "--evaluation.classifier.steps", "2", *tokenizer)  # fmt: skip
    assert said[-1] == "purrception: interrupted; the same command goes on with both"


def test_ctrl_c_where_nothing_is_kept_says_no_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("purrception.cli.run_verb", interrupt)
    assert main(["sample", "runs/digits"]) == 130
    assert capsys.readouterr().err == "purrception: interrupted\n"


def test_training_says_in_a_few_lines_what_begins(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("COLUMNS", "80")
    few = ("--training.steps", "1", "--tokenizer.training.steps", "1", "--runs", str(tmp_path))
    assert main(["train", "tiny.yaml", *few]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 20
    assert max(len(line) for line in lines[:-2] if str(tmp_path.parent) not in line) <= 80
    printed = re.sub(r"\n {3,}", " ", "\n".join(lines))
    said = dict(re.findall(r"(?m)^(writes to|\w+)  +(.*)$", printed))
    of_images = (
        "my pictures: 18 for training, 6 held out, 3 classes; 16×16 pixels, grey, not mirrored (--data.flips)"
    )
    assert said["images"].endswith(of_images)
    assert said["tokenizer"].startswith("trained first, 1 steps of 16 images: 16 codes of 3 dimensions")
    assert said["training"] == "1 steps of 8 images, learning rate 0.01"
    assert said["sampling"] == "euler, 3 steps, temperature 1.0, guidance 1"
    assert said["options"] == shlex.join(few)
    assert "resumed" not in said
    assert main(["train", "--resume", str(tmp_path / "tiny"), "--training.steps", "2"]) == 0
    assert "resumed    from step 1" in capsys.readouterr().out.splitlines()


def test_the_training_of_a_tokenizer_says_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--training.steps", "1", "--model.codebook-size", "16", "--model.channels", "8", "8")
    assert main(["tokenizer", "train", "digits", *few, "--out", "mine"]) == 0
    printed = re.sub(r"\n {3,}", " ", capsys.readouterr().out)
    said = dict(re.findall(r"(?m)^(writes to|\w+)  +(.*)$", printed))
    assert said["images"].startswith("digits: 1442 for training, 355 held out, 10 classes; 16×16 pixels, grey")
    assert said["tokenizer"].startswith("16 codes of 4 dimensions, 8×8 an image, widths 8 8")
    assert said["training"].startswith("1 steps of 64 images")
    assert said["writes to"] == "mine (every setting: training.yaml)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "is already there and not empty"),
        (("--name", "b", "--head.kind", "geometrc"), "did you mean 'geometric'"),
        (("--name", "b", "--tokenizer.path", "nowhere"), "no tokenizer at nowhere"),
        (("--name", "b", "--init-from", "nowhere"), "there is none at nowhere"),
    ],
)
def test_names_are_checked_before_images_are_looked_at(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr("purrception.experiment.recipes.fit_to_images", lambda *_: pytest.fail("looked at images"))
    taken = ("--data.root", "my pictures", "--runs", "my runs", "--name", "tiny")
    assert main(["train", "folder", *taken, *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def test_a_command_line_is_read_back_by_a_shell() -> None:
    spelt = command_line(["sample", "my runs/it's"], {"top_k": 0, "classes": ("a b", "$x"), "seed": None})
    words = ["purrception", "sample", "my runs/it's", "--top-k", "0", "--classes", "a b", "$x"]
    assert shlex.split(spelt) == words
