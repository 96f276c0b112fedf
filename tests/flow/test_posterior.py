"""Posterior operations against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purrception.flow import (
    LAST_STEPS,
    Truncation,
    draw_codes,
    get_last_step,
    nearest_codes,
    posterior_from_logits,
    truncate,
)
from purrception.utils.errors import InputError

CODEBOOK = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def test_uniform_posterior_has_the_mean_of_the_codebook_and_entropy_ln_k() -> None:
    posterior = posterior_from_logits(torch.zeros(2, 3, 4, 7), CODEBOOK)
    torch.testing.assert_close(
        posterior.mean, CODEBOOK.mean(0)[None, :, None, None].expand(2, 3, 3, 4), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(posterior.entropy, torch.full((2, 3, 4), math.log(7)))


@pytest.mark.parametrize("height", [1e4, math.inf])
def test_one_hot_posterior_is_its_codeword_without_nan(height: float) -> None:
    logits = torch.full((1, 1, 1, 7), -height)
    logits[..., 4] = 0
    posterior = posterior_from_logits(logits, CODEBOOK)
    assert torch.equal(posterior.mean[0, :, 0, 0], CODEBOOK[4])
    assert posterior.entropy.item() < 1e-20
    assert posterior.codes.item() == 4
    assert posterior.max_probability.item() == 1


@given(st.floats(0.05, 20), st.integers(0, 2**31))
def test_temperature_divides_the_logits(temperature: float, seed: int) -> None:
    logits = torch.randn(1, 2, 2, 7, generator=torch.Generator().manual_seed(seed))
    probabilities = (logits.double() / temperature).softmax(-1)
    posterior = posterior_from_logits(logits, CODEBOOK, temperature)
    mean = torch.einsum("bhwk,kd->bdhw", probabilities, CODEBOOK.double())
    torch.testing.assert_close(posterior.mean.double(), mean, atol=1e-5, rtol=1e-4)
    entropy = -(probabilities * probabilities.log()).sum(-1)
    torch.testing.assert_close(posterior.entropy.double(), entropy, atol=1e-5, rtol=1e-4)


def test_bfloat16_logits_are_reduced_in_float32() -> None:
    posterior = posterior_from_logits(torch.randn(1, 2, 2, 7).bfloat16(), CODEBOOK)
    assert posterior.mean.dtype == posterior.entropy.dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_that_make_no_sense_are_refused(temperature: float) -> None:
    with pytest.raises(InputError, match="positive"):
        posterior_from_logits(torch.zeros(1, 1, 1, 7), CODEBOOK, temperature)


def test_nearest_codes_agree_with_brute_force() -> None:
    z = torch.randn(2, 3, 4, 5)
    distances = (z.permute(0, 2, 3, 1)[..., None, :] - CODEBOOK).square().sum(-1)
    assert torch.equal(nearest_codes(z, CODEBOOK), distances.argmin(-1))
    for chunk_bytes in (1, 100, 333):
        assert torch.equal(nearest_codes(z, CODEBOOK, chunk_bytes), distances.argmin(-1))


def truncated_by_hand(logits: list[float], top_k: int, top_p: float) -> list[float]:
    """Probabilities after top-k and then top-p, code by code."""
    mass = [math.exp(logit) for logit in logits]
    ranked = sorted(range(len(mass)), key=lambda k: -mass[k])[: top_k or None]
    total = sum(mass[k] for k in ranked)
    kept: list[int] = []
    for k in ranked:
        if sum(mass[j] for j in kept) >= top_p * total:
            break
        kept.append(k)
    left = sum(mass[k] for k in kept)
    return [mass[k] / left if k in kept else 0.0 for k in range(len(mass))]


@given(st.integers(0, 9), st.floats(0.01, 0.99) | st.just(1.0), st.integers(0, 2**31))
def test_truncation_agrees_with_brute_force(top_k: int, top_p: float, seed: int) -> None:
    logits = 2 * torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(seed))
    found = truncate(logits, Truncation(top_k, top_p)).exp()
    expected = [[truncated_by_hand(site, top_k, top_p) for site in row] for row in logits.double().tolist()]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_top_p_keeps_the_smallest_set_that_reaches_p_and_at_least_one_code() -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    for top_p, kept in [(1e-9, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (1.0, 4)]:
        assert (truncate(logits, Truncation(top_p=top_p)).exp() > 0).sum() == kept


def test_top_k_keeps_k_of_equal_codes() -> None:
    assert (truncate(torch.zeros(3, 7), Truncation(top_k=2)).exp() > 0).sum(-1).tolist() == [2, 2, 2]


def test_statistics_are_of_the_truncated_posterior_after_temperature() -> None:
    logits, truncation = torch.randn(2, 3, 4, 7), Truncation(top_k=4, top_p=0.8)
    posterior = posterior_from_logits(logits, CODEBOOK, 0.7, truncation)
    probabilities = truncate(logits / 0.7, truncation).exp()
    torch.testing.assert_close(posterior.mean, torch.einsum("bhwk,kd->bdhw", probabilities, CODEBOOK))
    torch.testing.assert_close(posterior.max_probability, probabilities.amax(-1))
    entropy = -torch.special.xlogy(probabilities, probabilities).sum(-1)
    torch.testing.assert_close(posterior.entropy, entropy)
    assert torch.equal(posterior.codes, logits.argmax(-1))
    greedy = posterior_from_logits(logits, CODEBOOK, truncation=Truncation(top_k=1))
    torch.testing.assert_close(greedy.mean, CODEBOOK[logits.argmax(-1)].permute(0, 3, 1, 2))
    assert greedy.entropy.max() < 1e-20


@pytest.mark.parametrize(("top_k", "top_p"), [(-1, 1.0), (0, 0.0), (0, 1.1), (0, math.nan)])
def test_truncations_that_make_no_sense_are_refused(top_k: int, top_p: float) -> None:
    with pytest.raises(InputError, match="top_"):
        Truncation(top_k, top_p)


@pytest.mark.parametrize("truncation", [Truncation(), Truncation(top_k=4), Truncation(top_p=0.7)])
def test_draws_have_the_frequencies_of_the_posterior(truncation: Truncation) -> None:
    shape = (1, 200, 200)
    logits = torch.randn(7, generator=torch.Generator().manual_seed(1))
    uniforms = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    posterior = posterior_from_logits(logits.expand(*shape, 7), CODEBOOK, truncation=truncation, uniforms=uniforms)
    assert posterior.drawn is not None
    observed = posterior.drawn.flatten().bincount(minlength=7).double()
    expected = uniforms.numel() * truncate(logits, truncation).exp().double()
    possible = expected > 0
    assert not observed[~possible].any()
    statistic = ((observed - expected).square() / expected)[possible].sum().item()
    degrees = int(possible.sum()) - 1
    assert statistic < {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5, 5: 20.5, 6: 22.5}[degrees]  # χ², 0.999 quantile


def test_a_draw_depends_on_its_own_number_alone_and_never_takes_an_impossible_code() -> None:
    probabilities = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0])
    almost_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()
    for number, code in [(0.0, 1), (0.29, 1), (0.31, 3), (almost_one, 3), (1.0, 3)]:
        assert draw_codes(probabilities, torch.tensor(number)).item() == code
    logits, uniforms = torch.randn(3, 4, 5, 7), torch.rand(3, 4, 5)
    together = posterior_from_logits(logits, CODEBOOK, uniforms=uniforms).drawn
    alone = posterior_from_logits(logits[1:2], CODEBOOK, uniforms=uniforms[1:2]).drawn
    assert together is not None
    assert alone is not None
    assert torch.equal(together[1:2], alone)


def test_last_steps_read_codes_from_where_they_say() -> None:
    z, logits = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 5, 7)
    posterior = posterior_from_logits(logits, CODEBOOK, uniforms=torch.rand(2, 4, 5))
    assert set(LAST_STEPS) == {"nearest", "argmax", "draw"}
    assert torch.equal(get_last_step("nearest")(z, posterior, CODEBOOK), nearest_codes(z, CODEBOOK))
    assert torch.equal(get_last_step("argmax")(z, posterior, CODEBOOK), logits.argmax(-1))
    assert get_last_step("draw")(z, posterior, CODEBOOK) is posterior.drawn
    with pytest.raises(InputError, match="give it uniforms"):
        get_last_step("draw")(z, posterior_from_logits(logits, CODEBOOK), CODEBOOK)
    with pytest.raises(InputError, match="did you mean 'nearest'"):
        get_last_step("nearst")


@pytest.mark.parametrize("truncation", [None, Truncation(top_k=2)])
def test_the_likeliest_codes_come_in_order_with_their_probabilities(truncation: Truncation | None) -> None:
    logits = torch.randn(2, 3, 4, 7)
    posterior = posterior_from_logits(logits, CODEBOOK, 0.8, truncation, top=3)
    probabilities = truncate(logits / 0.8, truncation or Truncation()).exp()
    expected = probabilities.topk(3, dim=-1)
    assert posterior.top is not None
    torch.testing.assert_close(posterior.top.probabilities, expected.values)
    found = probabilities.gather(-1, posterior.top.codes)
    torch.testing.assert_close(found, expected.values)
    assert torch.equal(posterior.top.codes[..., 0], posterior.codes)


def test_more_likeliest_codes_than_there_are_are_all_of_them_and_none_are_none() -> None:
    logits = torch.randn(1, 2, 2, 7)
    everything = posterior_from_logits(logits, CODEBOOK, top=9).top
    assert everything is not None
    assert everything.codes.shape == (1, 2, 2, 7)
    torch.testing.assert_close(everything.probabilities.sum(-1), torch.ones(1, 2, 2))
    assert posterior_from_logits(logits, CODEBOOK).top is None
