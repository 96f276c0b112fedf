"""Posterior operations against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purrception.errors import InputError
from purrception.flow import nearest_codes, posterior_from_logits

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
    assert posterior.entropy.item() == 0
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
