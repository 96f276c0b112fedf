"""The evidence against Gaussian densities and Bayes' rule, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from purrception.flow import Evidence, ObjectiveConfig, TrainingBatch, build_objective
from purrception.flow.evidence import MIN_NOISE
from purrception.models import PurrceptionTransformer
from tests.flow.oracle import exact_posterior

CODEBOOK = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
TIMES = torch.tensor([0.0, 0.1, 0.4, 0.6])


def log_densities(z: Tensor, t: Tensor, codebook: Tensor) -> Tensor:
    """ln N(z_i ; t e_k, (1 − t)² I) by torch.distributions in float64, ``[B, h, w, K]``."""
    time = t.double().view(-1, 1, 1, 1, 1)
    means = time * codebook.double()
    normal = torch.distributions.Normal(means, (1 - time).clamp_min(MIN_NOISE).expand_as(means))
    return normal.log_prob(z.double().permute(0, 2, 3, 1)[..., None, :]).sum(-1)


def test_evidence_is_the_log_density_up_to_a_constant_in_the_code() -> None:
    z = torch.randn(4, 3, 2, 5)
    logits = Evidence.of(z, TIMES).logits(CODEBOOK)
    assert logits.shape == (4, 2, 5, 11)
    expected = log_densities(z, TIMES, CODEBOOK).log_softmax(-1)
    torch.testing.assert_close(logits.log_softmax(-1).double(), expected, atol=1e-5, rtol=1e-5)


def test_evidence_says_nothing_at_pure_noise() -> None:
    assert (Evidence.of(torch.randn(2, 3, 4, 4), torch.zeros(2)).logits(CODEBOOK) == 0).all()


@pytest.mark.parametrize("t", [1 - MIN_NOISE, 0.999, 1.0])
def test_evidence_near_data_is_finite_decided_and_rounded_to_less_than_a_tenth_of_a_nat(t: float) -> None:
    time = torch.full((11,), t)
    z = CODEBOOK[:, :, None, None] * t
    logits = Evidence.of(z, time).logits(CODEBOOK)
    assert logits.isfinite().all()
    assert torch.equal(logits.argmax(-1).flatten(), torch.arange(11))
    exact = log_densities(z, time, CODEBOOK)
    error = (logits - logits.amax(-1, keepdim=True)) - (exact - exact.amax(-1, keepdim=True))
    assert error.abs().max() < 0.1


def test_evidence_is_float32_whatever_the_precision_around_it() -> None:
    z, t = torch.randn(2, 3, 2, 2).bfloat16(), torch.tensor([0.25, 0.5]).bfloat16()
    expected = Evidence.of(z.float(), t.float()).logits(CODEBOOK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = Evidence.of(z, t).logits(CODEBOOK)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, expected)


def silent_network(evidence: bool) -> PurrceptionTransformer:
    """Freshly initialised: its own posterior is uniform. One site."""
    made = PurrceptionTransformer((1, 1), 11, 3, 0, depth=1, width=16, heads=2, patch_size=1, evidence=evidence)
    made.set_codebook(CODEBOOK)
    return made.eval()


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7, 0.95])
def test_a_network_with_nothing_to_say_has_the_exact_bayes_posterior_of_independent_codes(t: float) -> None:
    grids = torch.arange(11).view(-1, 1, 1)
    z = torch.randn(6, 3, 1, 1)
    predicted = build_objective(ObjectiveConfig()).predict(
        silent_network(evidence=True), z, t, torch.zeros(6, dtype=torch.long)
    )
    assert predicted.posterior is not None
    exact = exact_posterior(z.double(), t, grids, CODEBOOK.double())
    mean = torch.einsum("bhwk,kd->bdhw", exact, CODEBOOK.double())
    torch.testing.assert_close(predicted.mean.double(), mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        predicted.posterior.entropy.double(), torch.special.entr(exact).sum(-1), atol=1e-4, rtol=1e-4
    )


def test_the_loss_of_such_a_network_is_the_conditional_entropy_of_the_codes() -> None:
    codes = torch.randint(11, (5, 1, 1))
    batch = TrainingBatch(
        indices=codes,
        labels=torch.zeros_like(codes[:, 0, 0]),
        noise=torch.randn(5, 3, 1, 1),
        time=torch.rand(5),
    )
    objective = build_objective(ObjectiveConfig())
    losses = objective.loss(silent_network(evidence=True), batch)
    time = batch.time.view(-1, 1, 1, 1)
    z = time * CODEBOOK[codes].permute(0, 3, 1, 2) + (1 - time) * batch.noise
    expected = log_densities(z, batch.time, CODEBOOK).log_softmax(-1).gather(-1, codes[..., None])
    assert losses.figures["cross_entropy"].item() == pytest.approx(-expected.mean().item(), abs=1e-4)
    assert losses.figures["logsumexp"].item() == pytest.approx(torch.tensor(11.0).log().item())
    plain = objective.loss(silent_network(evidence=False), batch)
    assert plain.figures["cross_entropy"].item() == pytest.approx(torch.tensor(11.0).log().item())


def test_prediction_with_evidence_is_finite_at_both_ends() -> None:
    objective = build_objective(ObjectiveConfig())
    for t in (0.0, 1.0):
        posterior = objective.predict(
            silent_network(evidence=True), torch.randn(2, 3, 1, 1), t, torch.zeros(2, dtype=torch.long)
        ).posterior
        assert posterior is not None
        assert posterior.mean.isfinite().all()
        assert posterior.entropy.isfinite().all()
