"""Every head: exact in float32, affine, uniform at first, and as expensive as it says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from purrception.flow import Evidence, Guidance, ObjectiveConfig, PredictionOptions, TrainingBatch, build_objective
from purrception.models import (
    CATEGORICAL_HEADS,
    HEADS,
    CategoricalHead,
    FactoredHead,
    GeometricHead,
    Head,
    HeadConfig,
    PurrceptionTransformer,
    RegressionHead,
)
from purrception.models.head import build_head
from purrception.utils.errors import InputError

CATEGORICAL = CATEGORICAL_HEADS
CODES, DIM, WIDTH, PATCH = 19, 3, 16, 2


def fresh(kind: str, **sizes: int) -> Head:
    """A head as training first sees it."""
    size = {"codes": CODES, "dim": DIM, "width": WIDTH, "patch": PATCH, "rank": 5} | sizes
    config = HeadConfig(kind, rank=size["rank"])
    return build_head(config, size["width"], torch.randn(size["codes"], size["dim"]), size["patch"])


def trained(kind: str) -> CategoricalHead:
    """A head whose every weight is random, so that nothing holds by accident of a zero."""
    head = fresh(kind)
    assert isinstance(head, CategoricalHead)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def reference_logits(head: CategoricalHead, features: Tensor, evidence: Evidence | None) -> Tensor:
    """Own logits plus evidence in float64, the evidence as a sum over channels."""
    logits = head.double().logits(features.double())
    head.float()
    if evidence is None:
        return logits
    codes, weights = head.codebook.double(), evidence.coefficients.double()
    linear = (weights[..., None, :-1] * codes).sum(-1)
    return logits + linear + weights[..., -1:] * codes.square().sum(-1)


@pytest.fixture(params=[False, True], ids=["plain", "evidence"])
def evidence(request: pytest.FixtureRequest) -> Evidence | None:
    """None, or the evidence in three random states of 4×6 sites."""
    return Evidence.of(torch.randn(3, DIM, 4, 6), torch.tensor([0.0, 0.3, 0.6])) if request.param else None


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_nll_is_the_reference_and_logsumexp_is_of_the_own_logits(kind: str, evidence: Evidence | None) -> None:
    head, features = trained(kind), torch.randn(3, 2, 3, WIDTH)
    targets = torch.randint(CODES, (3, 4, 6))
    sites = head.nll(features, targets, evidence)
    logits = reference_logits(head, features, evidence)
    nll = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    own = reference_logits(head, features, None)
    torch.testing.assert_close(sites.nll.double(), nll, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sites.logsumexp.double(), own.logsumexp(-1), atol=1e-5, rtol=1e-5)
    assert torch.equal(sites.correct.bool(), logits.argmax(-1) == targets)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", CATEGORICAL)
def test_posterior_is_the_reference(kind: str, temperature: float, evidence: Evidence | None) -> None:
    head, features = trained(kind), torch.randn(3, 2, 3, WIDTH)
    posterior = head.posterior(features, evidence, temperature)
    probabilities = (reference_logits(head, features, evidence) / temperature).softmax(-1)
    mean = torch.einsum("bhwk,kd->bdhw", probabilities, head.codebook.double())
    entropy = torch.special.entr(probabilities).sum(-1)
    torch.testing.assert_close(posterior.mean.double(), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(posterior.entropy.double(), entropy, atol=1e-5, rtol=1e-5)
    assert torch.equal(posterior.codes, probabilities.argmax(-1))


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_extrapolated_features_are_extrapolated_logits(kind: str) -> None:
    head = trained(kind)
    conditional, unconditional = torch.randn(2, 3, 2, 3, WIDTH)
    for scale in (-1.0, 0.5, 1.5, 4.0):
        guided = head.logits(torch.lerp(unconditional, conditional, scale))
        expected = torch.lerp(head.logits(unconditional), head.logits(conditional), scale)
        torch.testing.assert_close(guided, expected, atol=1e-4, rtol=1e-4)


def test_vectors_of_extrapolated_features_are_extrapolated_vectors() -> None:
    head = fresh("regression")
    torch.nn.init.normal_(head.get_parameter("linear.weight"))
    torch.nn.init.normal_(head.get_parameter("linear.bias"))
    conditional, unconditional = torch.randn(2, 3, 2, 3, WIDTH)
    expected = torch.lerp(head(unconditional), head(conditional), 2.5)
    torch.testing.assert_close(head(torch.lerp(unconditional, conditional, 2.5)), expected)


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_the_first_posterior_is_exactly_uniform_and_yet_learns(kind: str) -> None:
    head = fresh(kind)
    assert isinstance(head, CategoricalHead)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    features, targets = torch.randn(2, 2, 3, WIDTH), torch.randint(CODES, (2, 4, 6))
    assert (head.logits(features) == 0).all()
    first = head.nll(features, targets).nll.mean()
    assert first.item() == pytest.approx(math.log(CODES), rel=1e-6)
    for _ in range(2):  # where two factors meet, one of them waits a step for the other
        optimizer.zero_grad()
        head.nll(features, targets).nll.mean().backward()
        optimizer.step()
    assert head.nll(features, targets).nll.mean() < first
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


def test_the_first_vectors_are_zero_and_each_site_has_its_place() -> None:
    head = fresh("regression")
    assert isinstance(head, RegressionHead)
    features = torch.randn(1, 2, 3, WIDTH)
    assert torch.equal(head(features), torch.zeros(1, DIM, 4, 6))
    torch.nn.init.normal_(head.linear.weight)
    corner = (features[0, 1, 2] @ head.linear.weight.T).view(PATCH, PATCH, DIM).permute(2, 0, 1)
    torch.testing.assert_close(head(features)[0, :, 2:4, 4:6], corner)
    assert head.bfloat16()(features).dtype == torch.float32


def test_near_codes_share_what_the_geometric_head_learns() -> None:
    codebook = torch.cat([torch.tensor([[1.0, 1.0], [1.05, 0.95]]), 3 * torch.randn(30, 2)])
    head = GeometricHead(WIDTH, codebook, patch_size=1, rank=16)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    features, targets = torch.randn(8, 1, 1, WIDTH), torch.zeros(8, 1, 1, dtype=torch.long)
    for _ in range(20):
        optimizer.zero_grad()
        head.nll(features, targets).nll.mean().backward()
        optimizer.step()
    with torch.no_grad():
        shared = (head.site_features(features) @ head.phi(codebook).T).mean((0, 1, 2))
    assert shared[1] > shared[2:].mean()
    assert (shared[1] - shared[0]).abs() < 0.1 * (shared[0] - shared[2:].mean())


def test_the_geometric_head_reads_the_codebook_that_was_set() -> None:
    made = PurrceptionTransformer(
        (2, 2), CODES, DIM, 0, depth=1, width=16, heads=2, patch_size=1, head_kind="geometric"
    )
    before = made.head.class_weights()
    made.set_codebook(torch.randn(CODES, DIM))
    assert not torch.equal(made.head.class_weights(), before)


@pytest.mark.parametrize("sizes", [(7, 2, 8, 1, 3), (64, 4, 32, 2, 16), (129, 8, 24, 3, 5)])
@pytest.mark.parametrize("kind", HEADS)
def test_flops_and_parameters_are_what_torch_counts(kind: str, sizes: tuple[int, ...]) -> None:
    codes, dim, width, patch, rank = sizes
    head = fresh(kind, codes=codes, dim=dim, width=width, patch=patch, rank=rank)
    features = torch.randn(1, 2, 3, width)
    with FlopCounterMode(display=False) as counter:
        head.logits(features) if isinstance(head, CategoricalHead) else head(features)
    assert head.flops(2 * 3 * patch**2) == counter.get_total_flops()
    low_rank = (width + 1) * patch**2 * rank + codes * (rank + 1)
    expected = {
        "linear": (width + 1) * patch**2 * codes,
        "factored": low_rank,
        "geometric": low_rank + (dim + 1) * rank + (rank + 1) * rank,
        "regression": (width + 1) * patch**2 * dim,
    }
    assert head.parameter_count() == expected[kind]


def test_evidence_costs_d_plus_1_columns() -> None:
    evidence = Evidence.of(torch.randn(1, DIM, 4, 6), torch.rand(1))
    with FlopCounterMode(display=False) as counter:
        evidence.logits(torch.randn(CODES, DIM))
    assert counter.get_total_flops() == 2 * 4 * 6 * (DIM + 1) * CODES


def test_the_cost_of_the_factored_head_does_not_grow_with_patch_squared_width_and_codes() -> None:
    """At XL/2 sizes; built on the meta device, where a tensor has no numbers."""
    with torch.device("meta"):
        small, large = (
            {kind: fresh(kind, codes=16384, dim=8, width=width, patch=patch, rank=64) for kind in HEADS}
            for width, patch in ((576, 1), (1152, 2))
        )
    growth = {kind: large[kind].parameter_count() / small[kind].parameter_count() for kind in HEADS}
    assert growth["linear"] == pytest.approx(8, rel=0.01)
    assert growth["factored"] < 1.3
    assert large["linear"].parameter_count() > 50 * large["factored"].parameter_count()
    assert large["linear"].flops(1024) > 15 * large["factored"].flops(1024)


@pytest.mark.parametrize("evidence", [False, True])
@pytest.mark.parametrize("kind", CATEGORICAL)
def test_guidance_of_the_network_adds_the_evidence_once(kind: str, evidence: bool) -> None:
    network = PurrceptionTransformer(
        (2, 4), CODES, DIM, 3, depth=1, width=16, heads=2, head_kind=kind, head_rank=5, evidence=evidence
    ).eval()
    network.set_codebook(torch.randn(CODES, DIM))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    z, t, labels = torch.randn(2, DIM, 2, 4), 0.4, torch.tensor([1, 3])
    time, nothing = torch.full((2,), t), torch.full((2,), 3)
    own = [network.head.logits(network(z, time, given)) for given in (nothing, labels)]
    logits = torch.lerp(own[0], own[1], 2.0).double()
    if evidence:
        logits = logits + Evidence.of(z, time).logits(network.codebook)
    expected = torch.einsum("bhwk,kd->bdhw", logits.softmax(-1), network.codebook.double())
    objective = build_objective(ObjectiveConfig())
    predicted = objective.predict(network, z, t, labels, PredictionOptions(guidance=Guidance(2.0)))
    torch.testing.assert_close(predicted.mean.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", CATEGORICAL)
def test_losses_and_gradients_are_finite_at_both_ends_of_time(kind: str) -> None:
    network = PurrceptionTransformer(
        (2, 4), CODES, DIM, 3, depth=1, width=16, heads=2, head_kind=kind, evidence=True
    )
    network.set_codebook(torch.randn(CODES, DIM))
    batch = TrainingBatch(
        indices=torch.randint(CODES, (2, 2, 4)),
        labels=torch.tensor([0, 3]),
        noise=torch.randn(2, DIM, 2, 4),
        time=torch.tensor([0.0, 1.0]),
    )
    losses = build_objective(ObjectiveConfig()).loss(network, batch)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_heads_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'factored'"):
        HeadConfig("factord")
    with pytest.raises(InputError, match="rank is at least 1"):
        HeadConfig("factored", rank=0)
    with pytest.raises(InputError, match="linear, factored, geometric"):
        HeadConfig("regression", evidence=True)
    with pytest.raises(InputError, match="did you mean 'geometric'"):
        PurrceptionTransformer((2, 2), 4, 2, 0, head_kind="geometrical")


@pytest.mark.parametrize("kind", HEADS)
def test_a_saved_network_keeps_its_head(kind: str, tmp_path: Path) -> None:
    network = PurrceptionTransformer(
        (2, 4),
        CODES,
        DIM,
        3,
        depth=1,
        width=16,
        heads=2,
        head_kind=kind,
        head_rank=5,
        evidence=kind in CATEGORICAL,
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.set_codebook(torch.randn(CODES, DIM))
    network.save_pretrained(tmp_path)
    loaded = PurrceptionTransformer.from_pretrained(tmp_path)
    assert type(loaded.head) is HEADS[kind]
    assert loaded.evidence is network.evidence
    saved = network.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())


def test_rank_is_the_rank_of_the_logits() -> None:
    head = trained("factored")
    assert isinstance(head, FactoredHead)
    centred = (head.logits(torch.randn(40, 2, 3, WIDTH)) - head.bias).reshape(-1, CODES)
    assert torch.linalg.matrix_rank(centred).item() == 5
