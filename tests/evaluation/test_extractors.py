"""Feature extractors: by name, in any company, and with weights that others wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from purrception.evaluation import EvaluationConfig, ImageClassifier
from purrception.evaluation.extractors import ExtractorInputs, build_extractor, extract_in_groups
from purrception.evaluation.extractors.inception import InceptionV3, open_inception, resize_as_tensorflow
from purrception.utils.errors import InputError


@pytest.mark.parametrize("name", ["classifier", "texture"])
def test_features_of_an_image_do_not_depend_on_its_batch(name: str) -> None:
    classifier = ImageClassifier(channels=3, image_size=16, classes=2, feature_dim=8).eval()
    images = torch.rand(150, 3, 16, 16) * 2 - 1
    extractor = build_extractor(name, ExtractorInputs(classifier))
    together, alone = extract_in_groups(extractor, images), extract_in_groups(extractor, images[70:77])
    assert together.features.shape[0] == 150
    assert together.features.std(dim=0).max() > 0
    assert torch.equal(together.features[70:77], alone.features)
    if name == "classifier":
        assert together.logits is not None
        assert together.spatial is not None
        torch.testing.assert_close(together.logits, classifier(images))
        assert together.spatial.shape == (150, 7 * 4 * 4)
    assert extractor.fingerprint == build_extractor(name, ExtractorInputs(classifier)).fingerprint


def test_what_an_extractor_lacks_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'textures'.*texture"):
        EvaluationConfig(features="textures")
    with pytest.raises(InputError, match="at least 2 classes"):
        build_extractor("classifier", ExtractorInputs())
    with pytest.raises(InputError, match=r"download https://.*--weights"):
        build_extractor("inception", ExtractorInputs())
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'transformers>=4\.45'"):
        build_extractor("dinov2", ExtractorInputs())


def test_tensorflows_resize_by_hand() -> None:
    images = torch.rand(2, 3, 5, 9)
    resized = resize_as_tensorflow(images, side=7)
    for row, column in ((0, 0), (3, 4), (6, 6), (5, 1)):
        y, x = row * 5 / 7, column * 9 / 7  # no half-pixel centres
        top, left = int(y), int(x)
        bottom, right = min(top + 1, 4), min(left + 1, 8)
        dy, dx = y - top, x - left
        expected = (1 - dy) * ((1 - dx) * images[..., top, left] + dx * images[..., top, right]) + dy * (
            (1 - dx) * images[..., bottom, left] + dx * images[..., bottom, right]
        )
        torch.testing.assert_close(resized[..., row, column], expected)


@pytest.mark.slow
def test_inception_accounts_for_every_tensor(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in InceptionV3().state_dict().items() if "num_batches" not in name}
    assert sum(tensor.numel() for name, tensor in state.items() if "running" not in name) == 23_850_960
    torch.save(state, tmp_path / "weights.pth")
    extractor = open_inception(str(tmp_path / "weights.pth"))
    seen = extractor(torch.rand(2, 1, 16, 16) * 2 - 1)
    assert seen.spatial is not None
    assert seen.logits is not None
    assert (seen.features.shape, seen.spatial.shape, seen.logits.shape) == ((2, 2048), (2, 7 * 17 * 17), (2, 1008))
    state["fc.bias"][7] = torch.nan
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(InputError, match=r"broken\.pth holds .* in fc\.bias \(1 of 1008\)"):
        open_inception(str(tmp_path / "broken.pth"))
    state["AuxLogits.fc.bias"] = state.pop("fc.bias")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"missing: fc.bias; left over: AuxLogits.fc.bias"):
        open_inception(str(tmp_path / "other.pth"))


def test_an_absent_folder_of_dinov2_is_never_asked_of_the_hub() -> None:
    with pytest.raises(InputError, match=r"no DINOv2 at weights/dino: give a folder .* or hub:owner/name"):
        build_extractor("dinov2", ExtractorInputs(weights="weights/dino"))


def test_dinov2_from_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=224)
    network = transformers.Dinov2Model(config)
    network.save_pretrained(tmp_path / "dino")
    torch.nn.init.constant_(network.layernorm.bias, torch.inf)
    network.save_pretrained(tmp_path / "broken")
    extractor = build_extractor("dinov2", ExtractorInputs(weights=str(tmp_path / "dino")))
    grey = torch.rand(3, 1, 20, 20) * 2 - 1
    seen = extractor(grey)
    assert seen.features.shape == (3, 24)
    torch.testing.assert_close(seen.features, extractor(grey.expand(-1, 3, -1, -1)).features)
    with pytest.raises(InputError, match=r"broken holds .* infinite, in layernorm\.bias \(24 of 24\)"):
        build_extractor("dinov2", ExtractorInputs(weights=str(tmp_path / "broken")))
    with pytest.raises(InputError, match="no DINOv2 at"):
        build_extractor("dinov2", ExtractorInputs(weights=str(tmp_path / "nothing")))
