"""The network: the DiT and its head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import profile

from purrception.models import DIT_SIZES, DiTConfig, HeadConfig, LinearHead, PurrceptionTransformer
from purrception.models.dit import Attention, Block, DiT
from purrception.utils.errors import InputError


def test_save_and_load_give_the_same_logits_bit_for_bit(network: PurrceptionTransformer, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path)
    loaded = PurrceptionTransformer.from_pretrained(tmp_path)
    z, t, labels = torch.randn(2, 3, 4, 6), torch.rand(2), torch.tensor([0, 5])
    assert torch.equal(network.head.logits(network(z, t, labels)), loaded.head.logits(loaded(z, t, labels)))
    assert torch.equal(network.codebook, loaded.codebook)


def test_a_damaged_or_foreign_weights_file_is_refused(network: PurrceptionTransformer, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot load"):
        PurrceptionTransformer.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"depth": 2', '"depth": 3'))
    with pytest.raises(InputError, match="missing_keys"):
        PurrceptionTransformer.from_pretrained(tmp_path)


def test_a_block_is_the_identity_at_initialisation() -> None:
    config = DiTConfig(depth=1, width=16, heads=2, patch_size=1)
    fresh = PurrceptionTransformer((2, 2), 4, 2, 0, depth=1, width=16, heads=2, patch_size=1)
    block = fresh.backbone.blocks[0]
    assert isinstance(block, Block)
    x = torch.randn(1, 4, 16)
    assert torch.equal(block(x, torch.randn(1, 16)), x)
    assert config.mlp_ratio == 4.0


@pytest.mark.parametrize("classes", [0, 1, 7])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (8, 2)])
def test_any_rectangle_and_any_number_of_classes(grid: tuple[int, int], classes: int) -> None:
    made = PurrceptionTransformer(grid, 9, 2, classes, depth=1, width=16, heads=2, patch_size=1)
    labels = torch.tensor([0, classes])
    features = made(torch.randn(2, 2, *grid), torch.rand(2), labels)
    assert made.head.logits(features).shape == (2, *grid, 9)


def test_labels_matter_only_where_there_are_classes(network: PurrceptionTransformer) -> None:
    z, t = torch.randn(1, 3, 4, 6), torch.rand(1)
    assert not torch.equal(network(z, t, torch.tensor([0])), network(z, t, torch.tensor([5])))
    free = PurrceptionTransformer((2, 2), 4, 2, 0, depth=1, width=16, heads=2, patch_size=1)
    z = torch.randn(1, 2, 2, 2)
    assert torch.equal(free(z, t, torch.tensor([0])), free(z, t, torch.tensor([99])))


def test_each_site_of_a_patch_has_its_own_logits_in_its_own_place() -> None:
    head = LinearHead(width=3, codebook=torch.randn(5, 2), patch_size=2)
    torch.nn.init.normal_(head.linear.weight)
    features = torch.randn(1, 2, 3, 3)
    logits = head.logits(features)
    assert logits.shape == (1, 4, 6, 5)
    raw = features[0, 1, 2] @ head.linear.weight.T  # the patch in the lower right corner
    expected = raw.view(2, 2, 5)
    torch.testing.assert_close(logits[0, 2:4, 4:6], expected)


def test_nll_is_the_log_probability_of_the_target(network: PurrceptionTransformer) -> None:
    features = torch.randn(2, 2, 3, 32)
    targets = torch.randint(17, (2, 4, 6))
    sites = network.head.nll(features, targets)
    log_probabilities = network.head.logits(features).double().log_softmax(-1)
    torch.testing.assert_close(
        sites.nll.double(), -log_probabilities.gather(-1, targets[..., None])[..., 0], atol=1e-5, rtol=1e-5
    )
    assert torch.equal(sites.correct.bool(), log_probabilities.argmax(-1) == targets)


def test_embedding_uses_the_codebook_of_the_head(network: PurrceptionTransformer) -> None:
    indices = torch.randint(17, (2, 4, 6))
    assert torch.equal(network.embed(indices), network.codebook[indices].permute(0, 3, 1, 2))


def test_presets_are_the_published_sizes() -> None:
    assert {name: DIT_SIZES[name] for name in ("S", "B", "L", "XL")} == {
        "S": (12, 384, 6),
        "B": (12, 768, 12),
        "L": (24, 1024, 16),
        "XL": (28, 1152, 16),
    }
    assert DiTConfig.preset("XL/2") == DiTConfig(depth=28, width=1152, heads=16, patch_size=2)
    with pytest.raises(InputError, match="did you mean 'XL'"):
        DiTConfig.preset("XXL/2")
    with pytest.raises(InputError, match="like 'B/2'"):
        DiTConfig.preset("B")


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"multiple of network\.heads"):
        DiTConfig(width=100, heads=3)
    with pytest.raises(InputError, match="does not divide the grid 3×4"):
        PurrceptionTransformer((3, 4), 9, 2, 0, patch_size=2)


def test_time_scale_is_a_setting_of_the_network() -> None:
    torch.manual_seed(0)
    a = PurrceptionTransformer((2, 2), 4, 2, 0, depth=1, width=16, heads=2, patch_size=1, time_scale=1.0)
    b = PurrceptionTransformer((2, 2), 4, 2, 0, depth=1, width=16, heads=2, patch_size=1, time_scale=10.0)
    b.load_state_dict(a.state_dict())
    torch.testing.assert_close(b.backbone.time(torch.tensor([0.05])), a.backbone.time(torch.tensor([0.5])))


def test_the_codes_stay_exact_whatever_the_precision_of_the_weights(
    network: PurrceptionTransformer, tmp_path: Path
) -> None:
    codes = network.codebook.clone()
    network.save_pretrained(tmp_path)
    loaded = PurrceptionTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    for half in (network.to(torch.bfloat16), loaded):
        assert next(half.parameters()).dtype == torch.bfloat16
        assert torch.equal(half.codebook, codes)
        assert half.embed(torch.zeros(1, 4, 6, dtype=torch.long)).dtype == torch.float32


def test_recomputed_blocks_give_the_same_gradients(network: PurrceptionTransformer) -> None:
    z, t, labels = torch.randn(2, 3, 4, 6), torch.rand(2), torch.tensor([0, 2])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)

    def gradients() -> list[torch.Tensor]:
        total = network(z, t, labels).square().sum()
        return list(torch.autograd.grad(total, list(network.backbone.parameters())))

    kept = gradients()
    network.backbone.gradient_checkpointing = True
    for mine, theirs in zip(gradients(), kept, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
def test_a_tokens_channels_lie_side_by_side_in_every_block(positions: str) -> None:
    """Otherwise the figures are the same, but on a GPU each operation on them takes several times as long."""
    sizes = DiTConfig(depth=2, width=32, heads=2, positions=positions)  # type: ignore[arg-type]
    backbone = DiT(sizes, (8, 4), 4, num_classes=3)
    seen: list[bool] = []
    for block in backbone.blocks:
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous()))
    features = backbone(torch.randn(3, 4, 8, 4), torch.rand(3), torch.zeros(3, dtype=torch.long))
    assert [*seen, features.is_contiguous()] == [True, True, True]


def test_gradients_of_queries_keys_and_values_come_together_in_one_copy() -> None:
    attention = Attention(DiTConfig(width=32, heads=2))
    tokens = torch.randn(3, 8, 32, requires_grad=True)
    total: Tensor = attention(tokens).sum()
    with profile() as recorded:
        total.backward()
    steps = [event for event in recorded.events() if event.name.startswith("aten::")]
    assert [event.name for event in steps].count("aten::stack") == 1
    reshaped = [event for event in steps if event.name == "aten::reshape" and event.cpu_parent is not None]
    assert not [event for event in reshaped if any(part.name == "aten::clone" for part in event.cpu_children)]


def test_a_network_of_configurations_is_that_of_its_arguments() -> None:
    sizes = DiTConfig(depth=1, width=16, heads=2, patch_size=1, mlp_ratio=3.0, time_scale=10.0, norm="rms")
    torch.manual_seed(0)
    made = PurrceptionTransformer.from_settings(
        sizes,
        HeadConfig("factored", rank=3, evidence=True),
        grid=(2, 4),
        codebook_size=9,
        codebook_dim=2,
        num_classes=5,
        input_channels=3,
    )
    torch.manual_seed(0)
    expected = PurrceptionTransformer(
        (2, 4),
        9,
        2,
        5,
        depth=1,
        width=16,
        heads=2,
        patch_size=1,
        mlp_ratio=3.0,
        time_scale=10.0,
        norm="rms",
        head_kind="factored",
        head_rank=3,
        evidence=True,
        input_channels=3,
    )
    ignored = "_use_default_values"  # diffusers' note of which arguments were given by name
    assert made.config | {ignored: None} == expected.config | {ignored: None}
    saved = expected.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in made.state_dict().items())


def test_the_head_follows_the_family_of_the_objective() -> None:
    head = HeadConfig("factored", rank=3)
    assert head.for_family("categorical") == head
    assert head.for_family("regression").kind == "regression"
