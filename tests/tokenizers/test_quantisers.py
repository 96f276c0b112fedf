"""Four ways to learn a codebook, and the table they leave."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from purrception.flow.nearest import nearest_codes
from purrception.tokenizers import TokenizerTrainingConfig, VQConfig
from purrception.tokenizers.quantisers import QUANTISERS, FrozenQuantiser, Quantiser
from purrception.utils.errors import InputError

MODEL = VQConfig(codebook_size=60, codebook_dim=3)
LEVELS = {"fsq": (3, 4, 5)}


def learned(kind: str, **options: object) -> Quantiser:
    """A quantiser after five steps on random latents."""
    config = TokenizerTrainingConfig(quantiser=kind, fsq_levels=LEVELS.get(kind, ()), **options)  # type: ignore[arg-type]
    quantiser = QUANTISERS[kind](MODEL, config).train()
    optimizer = torch.optim.SGD([*quantiser.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    for _ in range(5):
        out = quantiser(torch.randn(4, 3, 8, 8, requires_grad=True))
        out.loss.backward()
        optimizer.step()
    return quantiser.eval()


@pytest.mark.parametrize("kind", QUANTISERS)
def test_the_nearest_code_of_the_stored_table_is_the_one_the_quantiser_chose(kind: str) -> None:
    quantiser = learned(kind)
    latents = 0.8 * torch.randn(16, 3, 16, 16)
    out = quantiser(latents)
    assert quantiser.codebook.shape == (60, 3)
    assert torch.equal(nearest_codes(latents, quantiser.codebook), out.indices)
    assert len(out.indices.unique()) > 40
    stored = torch.nn.functional.embedding(out.indices, quantiser.codebook).permute(0, 3, 1, 2)
    torch.testing.assert_close(stored, out.codes, atol=1e-6, rtol=0)


def test_codes_are_nearest_in_plain_arithmetic_too() -> None:
    latents, codebook = torch.randn(2, 3, 4, 4), torch.randn(60, 3)
    distances = (latents.permute(0, 2, 3, 1)[..., None, :] - codebook).square().sum(-1)
    assert torch.equal(nearest_codes(latents, codebook), distances.argmin(-1))


def test_cosine_codes_have_length_one() -> None:
    lengths = learned("cosine").codebook.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(60))
    assert learned("ema").codebook.norm(dim=1).std() > 0.1


def test_fsq_has_every_combination_of_its_levels() -> None:
    codes = learned("fsq").codebook
    assert [len(column.unique()) for column in codes.T] == [3, 4, 5]
    assert len(codes.unique(dim=0)) == 60


@pytest.mark.parametrize("kind", QUANTISERS)
def test_gradients_reach_the_latents_and_pull_them_towards_their_codes(kind: str) -> None:
    quantiser = learned(kind).train()
    latents = torch.randn(2, 3, 4, 4, requires_grad=True)
    out = quantiser(latents)
    (through,) = torch.autograd.grad(out.codes.sum(), latents, retain_graph=True)
    assert through.abs().sum() > 0
    (pull,) = torch.autograd.grad(out.loss, latents)
    point = torch.nn.functional.normalize(latents, dim=1) if kind == "cosine" else latents
    assert ((point - out.codes).detach() * pull).sum() > 0


@pytest.mark.parametrize("kind", QUANTISERS)
def test_quantisation_is_float32_under_autocast(kind: str) -> None:
    quantiser = learned(kind)
    latents = 0.8 * torch.randn(4, 3, 8, 8)
    plain = quantiser(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = quantiser(latents)
    assert cast.codes.dtype == torch.float32
    assert torch.equal(plain.indices, cast.indices)
    assert torch.equal(plain.codes, cast.codes)


@pytest.mark.parametrize("kind", ["ema", "cosine"])
def test_a_dead_code_restarts(kind: str) -> None:
    config = TokenizerTrainingConfig(quantiser=kind, codebook_decay=0.5)
    quantiser = QUANTISERS[kind](MODEL, config).train()
    around = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    quantiser(around + 0.1 * torch.randn(8, 3, 8, 8))
    for _ in range(12):  # the latents move away: without restarts all but a few codes would stay behind
        out = quantiser(-around + 0.1 * torch.randn(8, 3, 8, 8))
    assert (quantiser.codebook[:, 0] < 0).all()
    assert len(out.indices.unique()) > 50


@pytest.mark.parametrize("kind", QUANTISERS)
def test_going_on_from_a_table_starts_with_that_table(kind: str) -> None:
    table = learned(kind).codebook.clone()
    config = TokenizerTrainingConfig(quantiser=kind, fsq_levels=LEVELS.get(kind, ()))
    other = QUANTISERS[kind](MODEL, config)
    other.start_from(table)
    torch.testing.assert_close(other.codebook, table)
    latents = torch.randn(4, 3, 8, 8)
    assert torch.equal(other.train()(latents).indices, nearest_codes(latents, table))


@pytest.mark.parametrize("kind", ["ema", "cosine"])
def test_going_on_from_a_table_throws_no_code_away_and_restarts_dead_ones_later(kind: str) -> None:
    model = VQConfig(codebook_size=512, codebook_dim=4)
    table = torch.randn(512, 4)
    table = torch.nn.functional.normalize(table, dim=1) if kind == "cosine" else table
    quantiser = QUANTISERS[kind](model, TokenizerTrainingConfig(quantiser=kind)).train()
    quantiser.start_from(table)

    def step(codes: Tensor) -> Tensor:
        """How far each code is from where it was, after a batch of latents that lie upon some of them."""
        quantiser(table[codes].view(1, 16, 16, 4).permute(0, 3, 1, 2))
        return (quantiser.codebook - table).norm(dim=1)

    half = torch.arange(256)
    assert step(half).max() < 1e-3  # each code left out was thrown away when all began with a count of 1
    assert step(half[torch.randint(128, (256,))]).max() < 1e-3
    for _ in range(40):
        moved = step(half) > 1e-2
    assert moved[256:].float().mean() > 0.95
    assert not moved[:256].any()


def test_codes_that_are_used_in_turn_live_on() -> None:
    """A batch of a quarter site per code cannot choose them all: an absolute threshold of 1 would kill most."""
    table = 10 * torch.randn(1024, 4)
    quantiser = QUANTISERS["ema"](VQConfig(1024, 4), TokenizerTrainingConfig()).train()
    quantiser.start_from(table)
    for number in range(80):
        codes = torch.arange(256) + 256 * (number % 4)
        quantiser(table[codes].view(1, 16, 16, 4).permute(0, 3, 1, 2))
    torch.testing.assert_close(quantiser.codebook, table, atol=1e-2, rtol=1e-3)


def test_a_table_that_a_quantiser_cannot_hold_is_refused() -> None:
    table = 2 * torch.randn(60, 3)
    for kind, message in (("cosine", "codes of length 1"), ("fsq", "same fsq_levels")):
        config = TokenizerTrainingConfig(quantiser=kind, fsq_levels=LEVELS.get(kind, ()))
        with pytest.raises(InputError, match=message):
            QUANTISERS[kind](MODEL, config).start_from(table)


def test_the_frozen_quantiser_learns_nothing() -> None:
    table = torch.randn(60, 3)
    quantiser = FrozenQuantiser(table).train()
    latents = torch.randn(2, 3, 4, 4, requires_grad=True)
    out = quantiser(latents)
    assert not out.codes.requires_grad
    assert float(out.loss) == 0
    assert torch.equal(quantiser.codebook, table)
