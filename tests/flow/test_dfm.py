"""Discrete flow matching: the mask path, its sampler and its bound, against the exact posterior."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from purrception.flow import Objective, ObjectiveConfig, SamplingConfig, TrainingBatch, build_objective
from purrception.models import PurrceptionTransformer
from purrception.models.factored_logits import FactoredLogits
from purrception.models.head import CategoricalHead
from purrception.utils.errors import InputError

CODES = 5


class ExactHead(CategoricalHead):
    """A head whose features are logits already."""

    def factors(self, features: Tensor) -> FactoredLogits:
        batch, height, width, codes = features.shape
        identity, nothing = torch.eye(codes)[None], torch.zeros(1, codes)
        return FactoredLogits(features.flatten(0, 2), identity, nothing, (batch, height, width))

    def flops(self, sites: int) -> int:
        return 0


class Oracle:
    """A network that knows a tiny data set: the exact posterior of a partly masked grid, or of z_t."""

    num_classes = 0
    evidence = False

    def __init__(self, grids: Tensor, weights: Tensor) -> None:
        self.grids, self.weights = grids, weights.double()
        self.codebook = torch.randn(CODES, 2, generator=torch.Generator().manual_seed(1))
        self.head = ExactHead(1, self.codebook, 1)

    def embed(self, indices: Tensor) -> Tensor:
        return self.codebook[indices].permute(0, 3, 1, 2)

    def embed_masked(self, indices: Tensor, masked: Tensor) -> Tensor:
        hidden = masked[:, None].float()
        return torch.cat([self.embed(indices) * (1 - hidden), hidden], dim=1)

    def log_weights(self, z: Tensor, t: Tensor) -> Tensor:
        """ln p(grid, state), ``[B, n]``."""
        embedded = self.embed(self.grids).double()
        if z.shape[1] == 3:  # codes and a mask channel
            known = 1 - z[:, None, 2:]
            mismatch = ((z[:, None, :2] - embedded[None]) * known).abs().flatten(2).amax(-1) > 1e-4
            return self.weights.log() - mismatch * 1e9
        squared = (z[:, None].double() - t.view(-1, 1, 1, 1, 1) * embedded[None]).square().flatten(2).sum(-1)
        return self.weights.log() - squared / (2 * (1 - t[:, None].double()).clamp_min(1e-9) ** 2)

    def __call__(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        weights = self.log_weights(z, t).softmax(dim=1)
        one_hot = torch.nn.functional.one_hot(self.grids, CODES).double()
        return torch.einsum("bn,nhwk->bhwk", weights, one_hot).clamp_min(1e-30).log().float()


class Numbers:
    """Draws for a batch, from one generator."""

    def __init__(self, count: int, grid: tuple[int, ...], seed: int) -> None:
        self._count, self._grid, self._seed = count, grid, seed

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed * 1000 + step)

    def normal(self, step: int) -> Tensor:
        return torch.randn(self._count, 2, *self._grid, generator=self._generator(2 * step))

    def uniform(self, step: int) -> Tensor:
        return torch.rand(self._count, *self._grid, generator=self._generator(2 * step + 1))


@pytest.fixture
def oracle() -> Oracle:
    generator = torch.Generator().manual_seed(0)
    grids = torch.randint(CODES, (6, 2, 2), generator=generator)
    return Oracle(grids, torch.tensor([0.3, 0.25, 0.2, 0.1, 0.1, 0.05]))


def dfm() -> Objective:
    return build_objective(ObjectiveConfig(name="dfm"))


def grid_counts(indices: Tensor, grids: Tensor) -> Tensor:
    """How often each grid was generated; what is no grid is in the last place."""
    matches = (indices[:, None] == grids).flatten(2).all(-1)
    counts = matches.sum(0).double()
    return torch.cat([counts, (~matches.any(1)).sum()[None].double()])


def chi_squared(counts: Tensor, shares: Tensor) -> float:
    expected = shares * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_code_frequencies_are_the_data_sets_by_chi_squared(oracle: Oracle) -> None:
    count = 4000
    made = dfm().generate(
        oracle,
        torch.zeros(count, dtype=torch.long),
        Numbers(count, (2, 2), 3),
        SamplingConfig(num_inference_steps=100),
    )
    for row in range(2):
        for column in range(2):
            shares = torch.zeros(CODES, dtype=torch.double).index_add_(
                0, oracle.grids[:, row, column], oracle.weights
            )
            counts = made.indices[:, row, column].bincount(minlength=CODES).double()
            assert counts[shares == 0].sum() == 0
            present = shares > 0
            # 0.999 quantile of χ² with 4 degrees of freedom: 18.5
            assert chi_squared(counts[present], shares[present]) < 18.5


def test_the_test_above_can_fail(oracle: Oracle) -> None:
    tilted = Oracle(oracle.grids, torch.tensor([0.25, 0.25, 0.2, 0.1, 0.1, 0.1]))
    count = 4000
    made = dfm().generate(
        tilted,
        torch.zeros(count, dtype=torch.long),
        Numbers(count, (2, 2), 3),
        SamplingConfig(num_inference_steps=100),
    )
    shares = torch.zeros(CODES, dtype=torch.double).index_add_(0, oracle.grids[:, 0, 0], oracle.weights)
    counts = made.indices[:, 0, 0].bincount(minlength=CODES).double()
    present = shares > 0
    assert chi_squared(counts[present], shares[present]) > 18.5


def test_whole_grids_appear_at_their_rate_when_steps_are_many(oracle: Oracle) -> None:
    count = 4000
    made = dfm().generate(
        oracle,
        torch.zeros(count, dtype=torch.long),
        Numbers(count, (2, 2), 5),
        SamplingConfig(num_inference_steps=200),
    )
    counts = grid_counts(made.indices, oracle.grids)
    assert counts[-1] / count < 0.02  # two sites drawn in one step may disagree: O(1/N)
    torch.testing.assert_close(counts[:-1] / count, oracle.weights, atol=0.03, rtol=0)
    assert made.nfe == 200


def test_the_corrector_changes_known_sites_and_keeps_the_law(oracle: Oracle) -> None:
    count, labels = 4000, torch.zeros(4000, dtype=torch.long)
    shares = torch.zeros(CODES, dtype=torch.double).index_add_(0, oracle.grids[:, 0, 0], oracle.weights)
    made = {}
    for eta in (0.0, 0.5, 2 / 3, 1.0):
        settings = SamplingConfig(num_inference_steps=50, solver="stochastic", eta=eta)
        made[eta] = dfm().generate(oracle, labels, Numbers(count, (2, 2), 7), settings).indices
        frequencies = made[eta][:, 0, 0].bincount(minlength=CODES).double() / count
        torch.testing.assert_close(frequencies, shares, atol=0.03, rtol=0)
        assert grid_counts(made[eta], oracle.grids)[-1] / count < 0.1
    plain = (
        dfm().generate(oracle, labels, Numbers(count, (2, 2), 7), SamplingConfig(num_inference_steps=50)).indices
    )
    assert torch.equal(made[0.0], plain)
    assert (made[1.0] != plain).any()


def test_a_known_site_is_never_redrawn_without_a_corrector(oracle: Oracle) -> None:
    seen: list[Tensor] = []

    class Watched(Oracle):
        def __call__(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
            seen.append(z)
            return super().__call__(z, t, labels)

    watched = Watched(oracle.grids, oracle.weights)
    made = dfm().generate(
        watched, torch.zeros(50, dtype=torch.long), Numbers(50, (2, 2), 1), SamplingConfig(num_inference_steps=10)
    )
    final = watched.embed(made.indices)
    for z in seen:
        known = z[:, 2:] == 0
        assert torch.equal(z[:, :2] * known, final * known)
    assert (seen[0][:, 2] == 1).all()


def test_loss_is_the_cross_entropy_of_masked_sites_alone(network: PurrceptionTransformer) -> None:
    torch.manual_seed(0)
    masked_network = PurrceptionTransformer(
        (4, 6), 17, 3, 5, depth=1, width=16, heads=2, patch_size=1, input_channels=4
    )
    masked_network.set_codebook(network.codebook)
    torch.nn.init.normal_(masked_network.head.linear.weight, std=0.3)
    batch = TrainingBatch(
        torch.randint(17, (3, 4, 6)), torch.tensor([0, 2, 5]), torch.randn(3, 3, 4, 6), torch.rand(3)
    )
    objective = build_objective(ObjectiveConfig(name="dfm", z_loss=0.0))
    losses = objective.loss(masked_network, batch)
    masked = torch.special.ndtr(batch.noise[:, 0]) >= batch.time.view(-1, 1, 1)
    state = torch.cat([network.embed(batch.indices) * ~masked[:, None], masked[:, None].float()], dim=1)
    log_probabilities = masked_network.head.logits(masked_network(state, batch.time, batch.labels)).log_softmax(-1)
    nll = -log_probabilities.gather(-1, batch.indices[..., None])[..., 0]
    torch.testing.assert_close(losses.total, nll[masked].sum() / (0.5 * masked.numel()))
    torch.testing.assert_close(losses.figures["cross_entropy"], nll[masked].mean())


@pytest.mark.parametrize("name", ["purrception", "dfm"])
def test_bounds_are_tight_where_the_likelihood_is_known(oracle: Oracle, name: str) -> None:
    """With the exact posterior both bounds equal the entropy of the data set."""
    count = 600
    rows = torch.multinomial(oracle.weights, count, replacement=True, generator=torch.Generator().manual_seed(2))
    objective = build_objective(ObjectiveConfig(name=name))
    indices, labels = oracle.grids[rows], torch.zeros(count, dtype=torch.long)
    bounds = objective.nll_bounds(oracle, indices, labels, Numbers(count, (2, 2), 11), nodes=57)
    exact = -oracle.weights.log()[rows].mean().item()
    means = bounds.mean(dim=1)
    error = bounds.std(dim=1).max().item() / math.sqrt(count)
    assert means.min().item() == pytest.approx(exact, abs=4 * error + 0.05)
    assert error < 0.15


def test_a_worse_posterior_has_a_larger_bound(oracle: Oracle) -> None:
    """A network that holds all grids equally likely codes them worse than one that knows their weights."""
    wrong = Oracle(oracle.grids, oracle.weights)
    wrong.weights = torch.full((6,), 1 / 6, dtype=torch.double)
    count = 1000
    rows = torch.multinomial(oracle.weights, count, replacement=True, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(count, dtype=torch.long)
    for name in ("purrception", "dfm"):
        objective = build_objective(ObjectiveConfig(name=name))
        values = [
            objective.nll_bounds(net, oracle.grids[rows], labels, Numbers(count, (2, 2), 4)).mean(1).min().item()
            for net in (oracle, wrong)
        ]
        assert values[1] > values[0]


def test_settings_of_an_ode_are_refused(oracle: Oracle) -> None:
    for settings in (SamplingConfig(solver="heun"), SamplingConfig(last_step="argmax")):
        with pytest.raises(InputError, match="has no ODE"):
            dfm().generate(oracle, torch.zeros(1, dtype=torch.long), Numbers(1, (2, 2), 0), settings)
