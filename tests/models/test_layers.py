"""Blocks that came after DiT: off unless asked for, counted and saved like the others."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from purrception.experiment.recipes import RECIPES
from purrception.models import DIT_SIZES, DiTConfig, PurrceptionTransformer, forward_flops
from purrception.models.dit import Attention
from purrception.models.layers import SwiGLU, apply_rotary, rotary_cos_sin
from purrception.utils.errors import InputError

SIZES = DiTConfig(depth=2, width=48, heads=3, patch_size=2)
MODERN = replace(SIZES, norm="rms", mlp="swiglu", positions="rotary", qk_norm=True)


def build(config: DiTConfig) -> PurrceptionTransformer:
    """A network of random weights."""
    made = PurrceptionTransformer((4, 6), 17, 3, 5, **asdict(config))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def test_presets_and_recipes_use_none_of_them() -> None:
    plain = asdict(DiTConfig())
    configs = [DiTConfig.preset(f"{size}/2") for size in DIT_SIZES]
    configs += [make().network for make in RECIPES.values()]
    for config in configs:
        assert all(getattr(config, name) == plain[name] for name in ("norm", "mlp", "positions", "qk_norm"))


def test_products_of_rotated_vectors_depend_only_on_their_distance() -> None:
    height, width, channels = 5, 7, 16
    rotation = rotary_cos_sin(height, width, channels)
    query, key = torch.randn(channels), torch.randn(channels)
    q, k = (apply_rotary(x.expand(height * width, channels), rotation) for x in (query, key))
    torch.testing.assert_close(q.norm(dim=-1), query.norm().expand(height * width))
    products = (q @ k.T).view(height, width, height, width)
    for down, right in ((0, 0), (1, 0), (0, 2), (2, 3)):
        shifted = [
            products[row, column, row + down, column + right]
            for row in range(height - down)
            for column in range(width - right)
        ]
        torch.testing.assert_close(torch.stack(shifted), shifted[0].expand(len(shifted)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(products[0, 0, 1, 0], products[0, 0, 0, 1])


def test_attention_with_normalised_queries_and_keys_is_bounded() -> None:
    attention = Attention(MODERN)
    seen = {}
    for name in ("q_norm", "k_norm"):
        getattr(attention, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    attention(1e4 * torch.randn(2, 6, 48))
    logits = seen["q_norm"] @ seen["k_norm"].mT / MODERN.head_width**0.5
    assert logits.abs().max() <= MODERN.head_width**0.5 * (1 + 1e-5)


def test_a_gated_mlp_costs_what_a_plain_one_does() -> None:
    plain = 2 * 384 * 4 * 384 + 4 * 384 + 384
    assert sum(p.numel() for p in SwiGLU(384, 4 * 384).parameters()) == pytest.approx(plain, rel=0.01)
    width, hidden = 48, SwiGLU(48, 192).output.in_features
    assert hidden == 128
    counts = [sum(p.numel() for p in build(config).parameters()) for config in (SIZES, MODERN)]
    block = (2 * width * hidden + 2 * hidden) + (hidden * width + width) - (2 * width * 192 + 192 + width)
    assert counts[1] - counts[0] == 2 * (block + 2 * 16)
    tokens = 2 * 3
    more = 2 * 2 * tokens * width * (3 * hidden - 2 * 192)
    assert forward_flops(build(MODERN)) - forward_flops(build(SIZES)) == more


def test_positions_matter_however_they_enter() -> None:
    network = build(MODERN)
    assert network.backbone.positions is None
    z, t, labels = torch.randn(1, 3, 4, 6), torch.tensor([0.3]), torch.tensor([1])
    features = network(z, t, labels)
    moved = network(z.roll(2, dims=3), t, labels)
    assert not torch.allclose(moved, features.roll(1, dims=2), atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(z, t, labels)
    assert (low - features).norm() < 0.05 * features.norm()


def test_blocks_are_part_of_the_saved_configuration_and_older_ones_load(tmp_path: Path) -> None:
    network = build(MODERN)
    network.save_pretrained(tmp_path / "new")
    again = PurrceptionTransformer.from_pretrained(tmp_path / "new").eval()
    given = torch.randn(2, 3, 4, 6), torch.rand(2), torch.tensor([0, 5])
    assert torch.equal(again(*given), network(*given))
    build(SIZES).save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "config.json"
    known = json.loads(file.read_text())
    for name in ("norm", "mlp", "positions", "qk_norm"):
        del known[name]
    file.write_text(json.dumps(known))
    older = PurrceptionTransformer.from_pretrained(tmp_path / "old")
    assert isinstance(older.backbone.blocks[0].norm1, torch.nn.LayerNorm)


def test_blocks_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'swiglu'"):
        replace(SIZES, mlp="swigl")
    with pytest.raises(InputError, match="multiple of 4"):
        DiTConfig(width=20, heads=2, positions="rotary")
