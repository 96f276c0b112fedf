"""The doctor: its measures one by one, its verdicts, and the report of a tiny tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from purrception.cli import main
from purrception.data import DataConfig, load_split
from purrception.evaluation import ClassifierConfig
from purrception.evaluation.extractors.random_features import random_features
from purrception.evaluation.metrics.ssim import structural_similarity
from purrception.evaluation.tokenizer.codebook import CodebookState, examine_codebook, nearest_neighbours
from purrception.evaluation.tokenizer.recommendation import recommend
from purrception.evaluation.tokenizer.reconstruction import Distance, _distance
from purrception.evaluation.tokenizer.report import check_images, report_tokenizer
from purrception.tokenizers import VQConfig, VQTokenizer
from purrception.tokenizers.quality import measure
from purrception.tokenizers.training import psnr_history
from purrception.tokens import Standardisation
from purrception.utils.errors import InputError


def ssim_by_hand(a: np.ndarray, b: np.ndarray, side: int) -> float:
    """The textbook's sums, window by window, for one channel with a range of 2."""
    grid = np.arange(side) - side // 2
    weights = np.exp(-(grid[:, None] ** 2 + grid[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = 0.02**2, 0.06**2
    values = []
    for top in range(a.shape[0] - side + 1):
        for left in range(a.shape[1] - side + 1):
            x, y = (image[top : top + side, left : left + side] for image in (a, b))
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            cov = (weights * (x - mx) * (y - my)).sum()
            values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize(("size", "side"), [((16, 14), 11), ((8, 8), 7), ((11, 20), 11)])
def test_ssim_is_the_published_formula(size: tuple[int, int], side: int) -> None:
    a = torch.rand(2, 3, *size) * 2 - 1
    b = (a + 0.3 * torch.randn_like(a)).clamp(-1, 1)
    pairs = zip(a.double().numpy(), b.double().numpy(), strict=True)
    expected = [np.mean([ssim_by_hand(x, y, side) for x, y in zip(p, q, strict=True)]) for p, q in pairs]
    torch.testing.assert_close(structural_similarity(a, b), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(structural_similarity(a, a), torch.ones(2, dtype=torch.float64))
    with pytest.raises(InputError, match="one shape"):
        structural_similarity(a, b[:1])


def test_random_features_see_blur_brightness_and_contrast() -> None:
    images = load_split(DataConfig(), "test")[0][:200]
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    real = random_features(images)
    assert real.shape == (200, 2 + 2 * 16)  # 16 and 8 pixels
    assert torch.equal(real[:50], random_features(images[:50]))
    same = _distance("x", real, real)
    assert same.reconstructions == pytest.approx(0, abs=1e-9)
    assert same.floor > 0.01
    for damaged in (blurred, 0.5 * images, images + 0.4):
        distance = _distance("x", real, random_features(damaged))
        assert distance.floor == same.floor
        assert distance.reconstructions > distance.floor
        assert distance.share > 0.1
    slight = _distance("x", real, random_features(images + 0.002 * torch.randn_like(images)))
    assert 0 < slight.share < 0.01


def test_the_floor_of_reconstructions_is_of_both_classes_where_they_take_turns() -> None:
    features = torch.randn(200, 3).double() + 10 * (torch.arange(200) % 2)[:, None]
    assert _distance("x", features, features).floor < 10  # halves of one class each lie 300 apart


def test_a_codebook_by_hand() -> None:
    codes = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.1], [100.0, 0.0]])
    counts = torch.tensor([2.0, 1.0, 1.0, 0.0])
    state, nearest = examine_codebook(codes, counts, squared_error=0.04)
    torch.testing.assert_close(nearest.float(), torch.tensor([5.0, 0.1, 0.1, (97**2 + 4**2) ** 0.5]))
    assert (state.codes, state.dimension, state.dead, state.usage, state.sites_per_code) == (4, 2, 1, 0.75, 1.0)
    assert state.perplexity == pytest.approx(2**1.5)
    assert state.within_noise == 0.5
    assert state.quantisation_error == pytest.approx(0.2)
    assert state.smallest_distance == pytest.approx(0.1, rel=1e-5)
    assert state.channel_mean == pytest.approx((1.5, (4 + 4.1) / 4))
    training = Standardisation.of(codes, counts.numpy())
    assert state.channel_mean == pytest.approx(training.mean)
    assert state.deviation == pytest.approx(training.std)


def test_nearest_neighbours_across_blocks() -> None:
    codes = torch.randn(1500, 3, dtype=torch.float64)
    codes[1400] = codes[3]
    found = nearest_neighbours(codes)
    assert found[3] == found[1400] == 0
    everything = (codes[:, None] - codes[None]).square().sum(-1).sqrt() + torch.eye(1500) * 1e9
    torch.testing.assert_close(found, everything.min(dim=1).values)


HEALTHY = CodebookState(
    codes=100,
    dimension=4,
    sites_per_code=50,
    usage=0.99,
    dead=1,
    perplexity=60,
    channel_mean=(0.0,),
    channel_deviation=(1.0,),
    deviation=1,
    smallest_distance=0.5,
    median_distance=2,
    quantisation_error=0.3,
    within_noise=0.01,
)
CLOSE = Distance("x", reconstructions=0.2, floor=1.0, variance=10.0)


def test_verdicts() -> None:
    def advice(psnr: float = 25, ssim: float = 0.8, distance: Distance = CLOSE, **book: float) -> str:
        return recommend(100, psnr, ssim, [distance], replace(HEALTHY, **book)).advice  # type: ignore[arg-type]

    assert advice() == "use it"
    assert advice(usage=0.4) == "retrain"
    assert advice(usage=0.4, sites_per_code=3) == "use it"
    assert advice(perplexity=4) == "retrain"
    assert advice(within_noise=0.6) == "retrain"
    assert advice(psnr=13) == "retrain"
    assert advice(psnr=17) == "fine-tune the decoder"
    assert advice(ssim=0.4) == "fine-tune the decoder"
    assert advice(distance=replace(CLOSE, reconstructions=1.6)) == "fine-tune the decoder"
    assert advice(distance=replace(CLOSE, reconstructions=1.6, floor=1.7)) == "use it"
    verdict = recommend(100, 17, 0.4, [CLOSE], HEALTHY)
    assert len(verdict.reasons) == 3
    assert "17.0 dB" in verdict.reasons[1]


def test_a_verdict_knows_too_few_images_and_a_training_that_was_too_short() -> None:
    few = recommend(49, 25, 0.8, [CLOSE], HEALTHY)
    assert few.advice == "judge it on more images"
    assert "49 images" in few.reasons[0]
    rising, done = (10, 14, 15, 15.5, 16, 16.9), (10, 15, 16, 16.8, 16.8, 16.9)
    short = recommend(100, 16.9, 0.8, [CLOSE], HEALTHY, rising)
    assert short.advice == "train it longer"
    assert "rose by 1.4 dB" in short.reasons[0]
    assert recommend(100, 16.9, 0.8, [CLOSE], HEALTHY, done).advice == "fine-tune the decoder"
    assert recommend(100, 25, 0.8, [CLOSE], HEALTHY, rising).advice == "use it"


def test_a_report_reads_how_the_training_went(tmp_path: Path) -> None:
    assert psnr_history(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "psnr": 9.5}\n{"step": 10, "psnr": 11.0}\n')
    assert psnr_history(tmp_path) == [9.5, 11.0]


@pytest.fixture(autouse=True)
def _quick_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purrception.evaluation.tokenizer.report.CLASSIFIER", ClassifierConfig(steps=5))


@pytest.fixture
def tokenizer() -> VQTokenizer:
    torch.manual_seed(0)
    vq = VQConfig(codebook_size=16, codebook_dim=3, channels=(8, 8)).build(image_channels=1, image_size=16)
    torch.nn.init.normal_(vq.quantize.embedding.weight, std=0.3)
    return VQTokenizer(vq)


def test_the_report_of_an_untrained_tokenizer(
    tokenizer: VQTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save(tmp_path / "t")
    out = tmp_path / "out"
    assert main(["tokenizer", "report", str(tmp_path / "t"), "digits", "--out", str(out)]) == 0
    text = (out / "report.md").read_text()
    *_, verdict, _, last = capsys.readouterr().out.splitlines()
    assert verdict.startswith("**Retrain.** PSNR is")
    assert last == f"report: {out}"
    report = json.loads((out / "report.json").read_text())
    images = load_split(DataConfig(), "test")[0]
    expected = measure(tokenizer, images)
    assert report["images"] == len(images)
    assert report["psnr"] == pytest.approx(expected.psnr)
    assert report["codebook"]["usage"] == pytest.approx(expected.usage)
    assert report["codebook"]["perplexity"] == pytest.approx(expected.perplexity)
    assert report["verdict"]["advice"] == "retrain"
    assert [row["features"][:10] for row in report["distances"]] == ["random fil", "classifier"]
    assert "**Retrain.** " in text
    assert "Thresholds: no verdict from under 50 images" in text
    for name in ("reconstructions", "worst", "median", "codebook"):
        assert (out / f"{name}.png").stat().st_size > 500
        assert f"({name}.png)" in text
    assert main(["tokenizer", "report", str(tmp_path / "t"), "digits", "--out", str(out)]) == 2
    again = report_tokenizer(tokenizer, DataConfig(), tmp_path / "again", batch_size=50)
    assert again.psnr == pytest.approx(report["psnr"])
    assert again.distances[0].reconstructions == pytest.approx(report["distances"][0]["reconstructions"], rel=1e-6)


def test_images_without_classes_in_a_folder_are_judged_too(
    tokenizer: VQTokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    tokenizer.save(tmp_path / "t")
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (12, 20, 30, 3), dtype=np.uint8)
    for number, array in enumerate(noise):
        Image.fromarray(array).save(tmp_path / "images" / f"{number}.png")
    arguments = ["tokenizer", "report", str(tmp_path / "t"), str(tmp_path / "images")]
    assert main([*arguments, "--data.test-fraction", "0", "--num", "8"]) == 0
    report = json.loads((tmp_path / "t" / "report" / "000" / "report.json").read_text())
    assert (report["images"], report["split"], report["image_size"]) == (8, "train", 16)
    assert [row["features"] for row in report["distances"]] == ["random filters"]
    assert main([*arguments, "--num", "3"]) == 2
    assert "at least 4 images" in capsys.readouterr().err


def test_images_that_a_tokenizer_does_not_take_are_refused(tokenizer: VQTokenizer) -> None:
    for data in (DataConfig(channels=3), DataConfig(image_size=17)):
        with pytest.raises(InputError, match="takes images of 1 channels whose side is a multiple of 2"):
            check_images(tokenizer, data)
