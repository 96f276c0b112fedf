"""Editing pictures, through the pipeline and the command line."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from purrception import PurrceptionPipeline
from purrception.cli import main
from purrception.flow import SamplingConfig
from purrception.utils.errors import InputError

FEW = SamplingConfig(num_inference_steps=3)


@pytest.fixture(scope="module")
def pipeline(tiny_run: Path) -> PurrceptionPipeline:
    return PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8))


def left_half() -> np.ndarray:
    mask = np.zeros((16, 16), bool)
    mask[:, :6] = True  # one and a half tokens of four pixels
    return mask


def test_inpainting_keeps_tokens_outside_the_mask_to_the_bit(
    pipeline: PurrceptionPipeline, picture: Image.Image
) -> None:
    out = pipeline.inpaint(picture, left_half(), class_label=3, num_images=3, settings=FEW)
    own = pipeline.encode([picture])
    assert torch.equal(out.indices[:, :, 2:], own[:, :, 2:].expand(3, -1, -1))
    assert (out.indices[:, :, :2] != own[:, :, :2]).any()
    assert out.labels == [3, 3, 3]
    assert out.nfe == 3
    wider = pipeline.inpaint(picture, left_half(), class_label="3", settings=FEW, margin=1)
    assert torch.equal(wider.indices[:, :, 3:], own[:, :, 3:])
    assert not torch.equal(wider.indices[:, :, 2], own[:, :, 2])


def test_pixels_outside_the_mask_can_be_kept_too(pipeline: PurrceptionPipeline, picture: Image.Image) -> None:
    plain, pasted = (
        pipeline.inpaint(picture, left_half(), 3, settings=FEW, keep_pixels=keep).images[0]
        for keep in (False, True)
    )
    assert np.array_equal(np.asarray(pasted)[:, 6:], np.asarray(picture)[:, 6:])
    assert np.array_equal(np.asarray(pasted)[:, :6], np.asarray(plain)[:, :6])


def test_larger_pictures_are_cut_as_training_images_are(
    pipeline: PurrceptionPipeline, picture: Image.Image
) -> None:
    large = Image.new("RGB", (96, 64))
    large.paste(picture.resize((64, 64), Image.Resampling.NEAREST), (16, 0))
    mask = np.zeros((64, 96), bool)
    mask[:, 16:40] = True
    a = pipeline.inpaint(picture, left_half(), 3, settings=FEW)
    b = pipeline.inpaint(large, Image.fromarray(mask.astype(np.uint8) * 255), 3, settings=FEW)
    assert torch.equal(a.indices, b.indices)


def test_without_a_class_the_null_class_is_taken(pipeline: PurrceptionPipeline, picture: Image.Image) -> None:
    assert pipeline.vary(picture, 0.5, settings=FEW).labels == [10]
    with pytest.raises(InputError, match="class labels are 0 to 9; given 12"):
        pipeline.vary(picture, 0.5, 12)
    with pytest.raises(InputError, match="at least one image"):
        pipeline.vary(picture, 0.5, num_images=0)


def test_interpolation_and_refinement_speak_the_language_of_the_pipeline(pipeline: PurrceptionPipeline) -> None:
    between = pipeline.interpolate((5, 6), num_images=3, class_label=2, settings=FEW)
    for seed, end in ((5, 0), (6, 2)):
        alone = pipeline(class_labels=[2], num_inference_steps=3, seed=seed)
        assert torch.equal(between.indices[end], alone.indices[0])
    out = pipeline(num_images=6, num_inference_steps=3)
    threshold = float(out.entropy.quantile(0.8))
    refined = pipeline.refine(out, threshold, FEW)
    certain = out.entropy <= threshold
    assert torch.equal(refined.indices[certain], out.indices[certain])
    assert refined.labels == out.labels == [0, 1, 2, 3, 4, 5]


def test_edit_on_the_command_line(
    tiny_run: Path, tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run / "pipeline", "pipeline")
    picture.save("seven.png")
    Image.fromarray(left_half().astype(np.uint8) * 255).save("mask.png")
    files = ["--image", "seven.png", "--class-label", "7", "--num", "2", "--steps", "3"]
    for number, words in enumerate(
        [
            ["inpaint", "pipeline", "--mask", "mask.png", "--keep-pixels", *files],
            ["vary", "pipeline", "--strength", "0.7", *files],
            ["refine", "pipeline", "--num", "3", "--steps", "2", "--threshold", "0.1"],
            ["interpolate", "pipeline", "--seeds", "3", "4", "--num", "3", "--steps", "2"],
        ]
    ):
        assert main(["edit", *words]) == 0
        folder = Path(f"pipeline/edited/{number:03d}")
        manifest = json.loads((folder / "manifest.json").read_text())
        again = tmp_path / f"again{number}"
        assert main([*shlex.split(manifest["command"])[1:], "--out", str(again)]) == 0
        for entry in manifest["images"]:
            assert (again / entry["file"]).read_bytes() == (folder / entry["file"]).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inpaint", "--mask", "m.png"], "give the image, a picture, with --image FILE"),
        (["vary", "--image", "none.png"], "none.png is not a file"),
        (["interpolate", "--num", "1"], "two ends; given 1"),
        (["refine", "--threshold", "-1"], "at least 0; given -1"),
    ],
)
def test_mistakes_in_edits_are_told(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert main(["edit", words[0], str(tiny_run / "pipeline"), *words[1:], "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
