"""LPIPS from weights in the layouts that people have, against a plain reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from purrception.tokenizers.perceptual import LPIPS
from purrception.utils.errors import InputError

# torchvision's VGG16: widths of its convolutions, with a pooling at each M.
LAYOUT = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
TAPS = (3, 8, 15, 22, 29)
"""relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""


def vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for item in LAYOUT:
        if isinstance(item, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU()]
            channels = item
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    torch.manual_seed(3)
    network = vgg16()
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def linear() -> dict[str, Tensor]:
    torch.manual_seed(4)
    return {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate((64, 128, 256, 512, 512))}


def reference(network: nn.Sequential, linear: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    """The published formula, one image, one stage and one site after another, in float64."""
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(1, 3, 1, 1)
    network = network.double()
    totals = []
    for one, other in zip(a.double(), b.double(), strict=True):
        x, y = (one[None] - shift) / scale, (other[None] - shift) / scale
        total = 0.0
        for number, layer in enumerate(network):
            x, y = layer(x), layer(y)
            if number in TAPS:
                weight = linear[f"lin{TAPS.index(number)}.model.1.weight"].double().flatten()
                sites = [
                    float((weight * (p / p.norm() - q / q.norm()) ** 2).sum())
                    for p, q in zip(x[0].flatten(1).T, y[0].flatten(1).T, strict=True)
                    if p.norm() > 0 and q.norm() > 0
                ]
                assert len(sites) == x[0, 0].numel()
                total += sum(sites) / len(sites)
        totals.append(total)
    network.float()
    return torch.tensor(totals)


def numbered(network: nn.Sequential) -> dict[str, Tensor]:
    return {f"features.{name}": value.clone() for name, value in network.state_dict().items()}


def sliced(network: nn.Sequential) -> dict[str, Tensor]:
    """As the lpips package names them, below a prefix, as taming's checkpoints hold them."""
    named = {}
    for name, value in network.state_dict().items():
        index = int(name.split(".")[0])
        stage = 1 + sum(index > tap for tap in TAPS)
        named[f"loss.perceptual_loss.net.slice{stage}.{name}"] = value.clone()
    return named


def test_both_layouts_and_files_give_the_published_distance(
    network: nn.Sequential, linear: dict[str, Tensor], tmp_path: Path
) -> None:
    a, b = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 16, 16) * 2 - 1
    classifier = {"classifier.0.weight": torch.rand(3, 3)}
    torch.save(numbered(network) | classifier, tmp_path / "vgg.pth")
    save_file(linear, tmp_path / "lin.safetensors")
    torch.save({"state_dict": sliced(network) | {f"x.{k}": v for k, v in linear.items()}}, tmp_path / "all.pt")
    expected = reference(network, linear, a, b)
    two = LPIPS([str(tmp_path / "vgg.pth"), str(tmp_path / "lin.safetensors")])
    one = LPIPS([str(tmp_path / "all.pt")])
    torch.testing.assert_close(two(a, b), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(one(a, b), expected, rtol=1e-4, atol=0)
    assert float(two(a, a).max()) == 0
    grey = a[:, :1].requires_grad_()
    torch.testing.assert_close(
        two(grey, b[:, :1]), two(grey.expand(-1, 3, -1, -1), b[:, :1].expand(-1, 3, -1, -1))
    )
    two(grey, torch.zeros_like(grey)).sum().backward()
    assert grey.grad is not None
    assert grey.grad.isfinite().all()
    assert not any(parameter.requires_grad for parameter in two.parameters())


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("executed",))


def test_bad_weights_are_refused(
    network: nn.Sequential, linear: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vgg.pth"
    torch.save(numbered(network), file)
    with pytest.raises(InputError, match=r"lack lin0\.model\.1\.weight"):
        LPIPS([str(file)])
    torch.save(numbered(network) | linear | {"features.0.weight": torch.rand(3)}, file)
    with pytest.raises(InputError, match=r"features\.0\.weight has shape"):
        LPIPS([str(file)])
    torch.save(numbered(network) | linear | {"features.0.bias": torch.full((64,), torch.nan)}, file)
    with pytest.raises(InputError, match=r"vgg\.pth holds .* in features\.0\.bias \(64 of 64\)"):
        LPIPS([str(file)])
    torch.save({"a": Hostile()}, file)
    with pytest.raises(InputError, match="holds no named tensors"):
        LPIPS([str(file)])
    assert "executed" not in capsys.readouterr().out
    with pytest.raises(InputError, match=r"no weights at nowhere\.pth"):
        LPIPS(["nowhere.pth"])
