"""Files that other evaluators write or read, held against values made by their rules."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from purrception.evaluation import FeatureStatistics, frechet_distance
from purrception.evaluation.extractors.inception import InceptionExtractor, InceptionV3
from purrception.evaluation.features import NO_CACHE, extract_features
from purrception.evaluation.image_sets import NpzImages
from purrception.evaluation.references import Origin, open_reference, save_statistics
from purrception.utils.errors import InputError


@pytest.fixture(scope="module")
def inception() -> InceptionExtractor:
    """FID's network with random weights."""
    torch.manual_seed(0)
    return InceptionExtractor(InceptionV3(), "weights", "cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six colour images as ADM keeps them."""
    levels = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", arr_0=levels)
    return tmp_path / "images.npz"


def spatial_as_adm(extractor: InceptionExtractor, entered: np.ndarray) -> np.ndarray:
    """The first 7 channels of mixed_6/conv as TensorFlow holds them, ``[B, 17, 17, 7]``, flattened, in NumPy.

    ``entered``: what goes into that block, ``[B, 768, 17, 17]``.
    """
    branch = extractor.network.Mixed_6d.branch1x1
    kernel = branch.conv.weight.detach()[..., 0, 0].numpy()
    convolved = np.einsum("bchw,oc->bhwo", entered, kernel) / np.float32(1 + 1e-3) ** 0.5  # fresh averages
    return np.maximum(convolved, 0)[..., :7].reshape(len(entered), -1)


def test_statistics_are_those_that_adm_would_save_of_the_same_images(
    inception: InceptionExtractor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purrception.evaluation.extractors.base.GROUP", 6)  # no padding
    entered: list[np.ndarray] = []
    hook = inception.network.Mixed_6d.register_forward_pre_hook(lambda _, x: entered.append(x[0].numpy()))
    seen = extract_features(NpzImages(images), inception)
    hook.remove()
    spatial = spatial_as_adm(inception, entered[0]).astype(np.float64)
    assert spatial.std(axis=0).max() > 0
    save_statistics(tmp_path / "ours.npz", seen, Origin("inception", inception.fingerprint, "custom", "x"), {})
    with np.load(tmp_path / "ours.npz") as ours:  # ADM's compute_statistics: np.mean(axis=0), np.cov(rowvar=False)
        assert seen.features is not None
        np.testing.assert_allclose(ours["mu"], seen.features.double().numpy().mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(ours["sigma"], np.cov(seen.features.double().numpy(), rowvar=False), atol=1e-12)
        np.testing.assert_allclose(ours["mu_s"], spatial.mean(axis=0), rtol=1e-3, atol=1e-4 * spatial.max())
        covariance = np.cov(spatial, rowvar=False)
        np.testing.assert_allclose(ours["sigma_s"], covariance, rtol=1e-2, atol=1e-3 * covariance.max())
    np.savez(
        tmp_path / "adm.npz",
        mu_s=spatial.mean(axis=0),
        sigma_s=np.cov(spatial, rowvar=False),
        mu=seen.statistics.mean.numpy(),
        sigma=seen.statistics.covariance.numpy(),
    )
    adm = open_reference(str(tmp_path / "adm.npz"), None, None).features(inception, NO_CACHE, strict=True)
    assert adm.spatial is not None
    assert seen.spatial is not None
    assert frechet_distance(seen.statistics, adm.statistics) < 1e-9
    assert frechet_distance(seen.spatial, adm.spatial) < 1e-4 * float(seen.spatial.covariance.trace())


def test_statistics_with_spatial_features_in_another_order_are_refused(
    inception: InceptionExtractor, tmp_path: Path
) -> None:
    """They once stood channel by channel; the hash of those days is written out here."""
    before = hashlib.sha256(b"inception weights tensorflow resize").hexdigest()
    plain = FeatureStatistics(torch.zeros(4), torch.eye(4), 9)
    file = tmp_path / "before.npz"
    np.savez(
        file,
        mu=plain.mean.numpy(),
        sigma=plain.covariance.numpy(),
        count=9,
        origin=np.array(
            f'{{"features": "inception", "fingerprint": "{before}", "protocol": "val", "title": "x"}}'
        ),
    )
    with pytest.raises(InputError, match=r"of another version: save them again, or take a reference with images"):
        open_reference(str(file), None, None).features(inception, NO_CACHE, strict=True)


def test_images_and_labels_of_an_npz_are_as_adm_lays_them_out(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    labels = np.array([2, 0, 1, 1, 0, 2])
    for given in (labels, labels.astype(np.int32), labels.astype(np.float32), np.eye(3)[labels]):
        np.savez(tmp_path / "adm.npz", levels, given)  # without names: arr_0 and arr_1
        read = NpzImages(tmp_path / "adm.npz")
        found = read.read(range(2, 6))
        assert np.array_equal(np.stack([image for image, _ in found]), levels[2:])
        assert [label for _, label in found] == labels[2:].tolist()
        assert read.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 0, 1]),
        np.array(["cat"] * 6),
        np.full(6, 0.5),
        np.full(6, -1),
        np.full(6, np.nan),
        np.zeros((6, 3)),
        np.zeros((6, 1)),
        np.zeros(0),
        np.array(3),
    ],
    ids=lambda labels: f"{labels.dtype}{labels.shape}",
)
def test_labels_that_are_none_are_refused_in_a_line(labels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "adm.npz", np.zeros((6, 4, 4, 3), dtype=np.uint8), labels)
    with pytest.raises(InputError, match=r"holds arr_1 of shape .* for 6 images; accepted are") as refused:
        open_reference(str(tmp_path / "adm.npz"), None, None)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["mu", "sigma", "mu_s", "sigma_s"])
def test_statistics_that_are_not_finite_are_refused_by_name(name: str, tmp_path: Path) -> None:
    arrays = {"mu": np.zeros(4), "sigma": np.eye(4), "mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    arrays[name].flat[0] = np.nan
    np.savez(tmp_path / "adm.npz", **arrays)
    with pytest.raises(InputError, match=f"holds {name} with values that are not finite"):
        open_reference(str(tmp_path / "adm.npz"), None, None)
