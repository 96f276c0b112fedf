"""The Purrception objective and guidance, on the real network."""

from __future__ import annotations

import math

import pytest
import torch

from purrception.errors import InputError
from purrception.flow import Guidance, ObjectiveConfig, TrainingBatch, build_objective, posterior_from_logits
from purrception.models import PurrceptionTransformer


def make_batch(network: PurrceptionTransformer, count: int = 3) -> TrainingBatch:
    generator = torch.Generator().manual_seed(1)
    size, dim = network.codebook.shape
    return TrainingBatch(
        indices=torch.randint(size, (count, *network.grid), generator=generator),
        labels=torch.randint(network.num_classes + 1, (count,), generator=generator),
        noise=torch.randn(count, dim, *network.grid, generator=generator),
        time=torch.rand(count, generator=generator),
    )


def test_cross_entropy_at_initialisation_is_ln_k() -> None:
    fresh = PurrceptionTransformer(grid=(4, 4), codebook_size=50, codebook_dim=2, num_classes=3)
    fresh.set_codebook(torch.randn(50, 2))
    losses = build_objective(ObjectiveConfig()).loss(fresh, make_batch(fresh))
    assert losses.figures["cross_entropy"].item() == pytest.approx(math.log(50), rel=1e-6)
    assert losses.figures["logsumexp"].item() == pytest.approx(math.log(50), rel=1e-6)


def test_loss_is_cross_entropy_plus_weighted_squared_logsumexp(network: PurrceptionTransformer) -> None:
    batch = make_batch(network)
    losses = build_objective(ObjectiveConfig(z_loss=0.01)).loss(network, batch)
    time = batch.time.view(-1, 1, 1, 1)
    z_t = time * network.embed(batch.indices) + (1 - time) * batch.noise
    logits = network.head.logits(network(z_t, batch.time, batch.labels)).double()
    cross_entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 2), batch.indices.flatten())
    z_loss = 0.01 * logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(losses.total.double(), cross_entropy + z_loss, rtol=1e-5, atol=1e-5)


def test_guided_features_give_guided_logits(network: PurrceptionTransformer) -> None:
    z, t = torch.randn(2, 3, 4, 6), torch.rand(2)
    labels, nothing = torch.tensor([1, 4]), torch.tensor([5, 5])
    conditional = network.head.logits(network(z, t, labels))
    unconditional = network.head.logits(network(z, t, nothing))
    for scale in (-1.0, 0.5, 1.5, 4.0):
        features = Guidance(scale).features(network, z, t, labels, network.num_classes)
        guided = unconditional + scale * (conditional - unconditional)
        torch.testing.assert_close(network.head.logits(features), guided, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scale", "label"), [(1.0, 2), (0.0, 5)])
def test_guidance_one_is_conditional_and_zero_unconditional(
    network: PurrceptionTransformer, scale: float, label: int
) -> None:
    objective = build_objective(ObjectiveConfig())
    z = torch.randn(2, 3, 4, 6)
    guided = objective.predict(network, z, 0.3, torch.tensor([2, 2]), guidance=Guidance(scale))
    logits = network.head.logits(network(z, torch.full((2,), 0.3), torch.tensor([label, label])))
    assert torch.equal(guided.mean, posterior_from_logits(logits, network.codebook).mean)
    assert Guidance(scale).passes == 1


def test_prediction_is_finite_at_both_ends(network: PurrceptionTransformer) -> None:
    objective = build_objective(ObjectiveConfig())
    for t in (0.0, 1.0):
        posterior = objective.predict(network, torch.randn(2, 3, 4, 6), t, torch.tensor([0, 5]))
        assert posterior.mean.isfinite().all()
        assert posterior.entropy.isfinite().all()


def test_unknown_objective_and_negative_z_loss_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'purrception'"):
        build_objective(ObjectiveConfig(name="purception"))
    with pytest.raises(InputError, match="z_loss"):
        ObjectiveConfig(z_loss=-1)
