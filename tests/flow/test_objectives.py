"""The Purrception objective and guidance, on the real network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from purrception.flow import (
    Guidance,
    ObjectiveConfig,
    Posterior,
    PredictionOptions,
    TrainingBatch,
    build_objective,
    posterior_from_logits,
)
from purrception.models import PurrceptionTransformer
from purrception.utils.errors import InputError


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
    z, t = torch.randn(2, 3, 4, 6), torch.full((2,), 0.4)
    labels, nothing = torch.tensor([1, 4]), torch.tensor([5, 5])
    conditional = network.head.logits(network(z, t, labels))
    unconditional = network.head.logits(network(z, t, nothing))
    for scale in (-1.0, 0.5, 1.5, 4.0):
        features = Guidance(scale).features(network, z, 0.4, labels, network.num_classes)
        guided = unconditional + scale * (conditional - unconditional)
        torch.testing.assert_close(network.head.logits(features), guided, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("scale", "label"), [(1.0, 2), (0.0, 5)])
def test_guidance_one_is_conditional_and_zero_unconditional(
    network: PurrceptionTransformer, scale: float, label: int
) -> None:
    objective = build_objective(ObjectiveConfig())
    z = torch.randn(2, 3, 4, 6)
    guided = objective.predict(network, z, 0.3, torch.tensor([2, 2]), PredictionOptions(guidance=Guidance(scale)))
    logits = network.head.logits(network(z, torch.full((2,), 0.3), torch.tensor([label, label])))
    assert torch.equal(guided.mean, posterior_from_logits(logits, network.codebook).mean)
    assert Guidance(scale).passes_at(0.3) == 1


def test_guidance_in_the_mean_extrapolates_the_means(network: PurrceptionTransformer) -> None:
    objective = build_objective(ObjectiveConfig())
    z, labels = torch.randn(2, 3, 4, 6), torch.tensor([1, 4])

    def predict(guidance: Guidance) -> Posterior:
        posterior = objective.predict(network, z, 0.4, labels, PredictionOptions(0.8, guidance=guidance)).posterior
        assert posterior is not None
        return posterior

    conditional, unconditional = predict(Guidance(1.0)), predict(Guidance(0.0))
    for scale in (-1.0, 0.5, 3.0):
        guided = predict(Guidance(scale, space="mean"))
        expected = unconditional.mean + scale * (conditional.mean - unconditional.mean)
        torch.testing.assert_close(guided.mean, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(guided.entropy, conditional.entropy, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(guided.mean, predict(Guidance(scale)).mean, atol=1e-3)
    assert torch.equal(predict(Guidance(1.0, space="mean")).mean, conditional.mean)
    assert torch.equal(predict(Guidance(0.0, space="mean")).mean, unconditional.mean)


@pytest.mark.parametrize("space", ["logits", "mean"])
def test_outside_its_interval_guidance_is_the_conditional_model(
    network: PurrceptionTransformer, space: Literal["logits", "mean"]
) -> None:
    objective = build_objective(ObjectiveConfig())
    z, labels = torch.randn(2, 3, 4, 6), torch.tensor([1, 4])
    within = Guidance(3.0, interval=(0.2, 0.6), space=space)
    always = Guidance(3.0, space=space)
    for t, passes in [(0.0, 1), (0.19, 1), (0.2, 2), (0.4, 2), (0.6, 2), (0.61, 1), (1.0, 1)]:
        assert within.passes_at(t) == passes
        same = always if passes == 2 else Guidance()
        found, expected = (
            objective.predict(network, z, t, labels, PredictionOptions(guidance=g)) for g in (within, same)
        )
        assert torch.equal(found.mean, expected.mean)
    assert Guidance(0.0, interval=(0.2, 0.6)).scale_at(0.1) == 1  # conditional outside, whatever the scale


def test_guidance_that_means_nothing_is_refused() -> None:
    for scale in (math.nan, math.inf):
        with pytest.raises(InputError, match="finite"):
            Guidance(scale)
    for interval in ((0.6, 0.2), (-0.1, 0.5), (0.5, 1.1), (math.nan, 1.0)):
        with pytest.raises(InputError, match="within 0 to 1"):
            Guidance(interval=interval)
    with pytest.raises(InputError, match="did you mean 'logits'"):
        Guidance(space="logit")  # type: ignore[arg-type]


def test_prediction_is_finite_at_both_ends(network: PurrceptionTransformer) -> None:
    objective = build_objective(ObjectiveConfig())
    for t in (0.0, 1.0):
        posterior = objective.predict(network, torch.randn(2, 3, 4, 6), t, torch.tensor([0, 5])).posterior
        assert posterior is not None
        assert posterior.mean.isfinite().all()
        assert posterior.entropy.isfinite().all()


def test_unknown_objective_and_negative_z_loss_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'purrception'"):
        build_objective(ObjectiveConfig(name="purception"))
    with pytest.raises(InputError, match="z_loss"):
        ObjectiveConfig(z_loss=-1)


@pytest.mark.parametrize(("space", "head_passes"), [("logits", 1), ("mean", 2)])
def test_guidance_costs_two_backbone_passes_and_in_logits_one_head_pass(
    network: PurrceptionTransformer,
    space: Literal["logits", "mean"],
    head_passes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = {"backbone": 0, "head": 0}

    def count(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(first: Tensor, *others: Tensor) -> Any:
            images[part] += len(first)
            return function(first, *others)

        return counted

    monkeypatch.setattr(network.backbone, "forward", count("backbone", network.backbone.forward))
    monkeypatch.setattr(network.head, "factors", count("head", network.head.factors))
    options = PredictionOptions(guidance=Guidance(2.0, space=space))
    build_objective(ObjectiveConfig()).predict(
        network, torch.randn(3, 3, 4, 6), 0.5, torch.tensor([0, 1, 2]), options
    )
    assert images == {"backbone": 2 * 3, "head": head_passes * 3}
