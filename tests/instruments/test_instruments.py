"""Each instrument against a closed form, a brute force or another library."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from purrception.flow import (
    OBJECTIVES,
    Generation,
    Guidance,
    ObjectiveConfig,
    PredictionOptions,
    TrainingBatch,
    Truncation,
    build_objective,
    euler,
    get_solver,
    get_timesteps,
)
from purrception.flow.solvers import MeanFunction
from purrception.instruments.calibration import (
    TEMPERATURES,
    Calibration,
    SiteScores,
    auroc,
    fit_temperature,
    temperature_losses,
)
from purrception.instruments.codebook_use import CodebookUse, CodeClassifier, histogram, jensen_shannon
from purrception.instruments.drift import DriftInTraining, drift_over_time
from purrception.instruments.posteriors import (
    blurred,
    mean_function,
    network_mean,
    network_posterior,
    tempered,
)
from purrception.instruments.smoothness import (
    Curvature,
    Stiffness,
    grid_errors,
    jacobians,
    measure_curvature,
    proposed_timesteps,
    velocity_field,
)
from purrception.instruments.temperature import TemperatureEffect
from purrception.instruments.uncertainty import (
    Trajectory,
    Uncertainty,
    decode_in_place,
    record_trajectory,
    top_codes,
)
from purrception.models import PurrceptionTransformer
from purrception.utils.errors import InputError

OPTIONS = PredictionOptions(0.7, Truncation(5), Guidance(2.0))


def build(**changes: object) -> PurrceptionTransformer:
    """A small network with random weights on a 2×2 grid."""
    sizes = {
        "grid": (2, 2),
        "codebook_size": 9,
        "codebook_dim": 3,
        "num_classes": 4,
        "depth": 2,
        "width": 16,
        "heads": 2,
        "patch_size": 1,
    } | changes
    made = PurrceptionTransformer(**sizes)  # type: ignore[arg-type]
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made.set_codebook(torch.randn(9, 3))
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("evidence", [False, True])
def test_the_posterior_function_is_what_the_objective_predicts(evidence: bool) -> None:
    network, z, labels = build(evidence=evidence), torch.randn(5, 3, 2, 2), torch.arange(5) % 4
    said = network_posterior(network, labels, OPTIONS)(z, 0.4)
    expected = build_objective(ObjectiveConfig()).predict(network, z, 0.4, labels, OPTIONS)
    assert expected.posterior is not None
    found = Uncertainty.of(said, network.codebook)
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(5, 2, 2))
    torch.testing.assert_close(found.entropy, expected.posterior.entropy, atol=1e-5, rtol=1e-4)
    assert torch.equal(found.codes, expected.posterior.codes)
    mean = mean_function(network_posterior(network, labels, OPTIONS), network.codebook)(z, 0.4)
    torch.testing.assert_close(mean, expected.mean, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="no posterior"):
        network_posterior(build(head_kind="regression"), labels)


def test_uncertainty_of_a_posterior_written_down() -> None:
    codebook = torch.tensor([[0.0], [1.0], [3.0]])
    said = torch.tensor([0.5, 0.5, 0.0]).log().expand(1, 1, 2, 3)
    found = Uncertainty.of(said, codebook)
    torch.testing.assert_close(found.effective_codes, torch.full((1, 1, 2), 2.0))
    torch.testing.assert_close(found.distance, torch.full((1, 1, 2), 0.5))
    torch.testing.assert_close(found.margin, torch.zeros(1, 1, 2))
    certain = Uncertainty.of(torch.tensor([-torch.inf, 0.0, -torch.inf]).expand(1, 1, 1, 3), codebook)
    assert (float(certain.entropy), float(certain.margin), float(certain.distance)) == (0.0, 1.0, 0.0)


def test_a_recorded_path_is_the_path_and_every_evaluation_is_kept() -> None:
    network, noise, labels = build(), torch.randn(3, 3, 2, 2), torch.arange(3)
    said = network_posterior(network, labels)
    for solver, evaluations in (("euler", 6), ("heun", 11)):
        recorded = record_trajectory(
            said, network.codebook, noise, get_solver(solver), get_timesteps("uniform", 6)
        )
        assert len(recorded.times) == len(recorded.states) == evaluations
        plain = get_solver(solver)(mean_function(said, network.codebook), noise, get_timesteps("uniform", 6))
        assert torch.equal(recorded.end, plain)
    tops = top_codes(network_posterior(network, labels[1:2]), recorded, 1, (0, 1), 3)
    assert torch.equal(tops.codes[:, 0], recorded.uncertainty.codes[:, 1, 0, 1])
    margin = tops.probabilities[:, 0] - tops.probabilities[:, 1]
    torch.testing.assert_close(margin, recorded.uncertainty.margin[:, 1, 0, 1], atol=1e-5, rtol=1e-4)
    grids = decode_in_place(lambda codes: codes.numpy(), torch.zeros(2, 2).long(), (1, 0), torch.tensor([4, 7]))
    assert grids.tolist() == [[[0, 0], [4, 0]], [[0, 0], [7, 0]]]


def test_a_posterior_that_is_the_truth_is_calibrated_and_an_overconfident_one_is_mended() -> None:
    said = (2 * torch.randn(20_000, 12)).log_softmax(-1)
    codes = torch.multinomial(said.exp(), 1)[:, 0]
    honest = Calibration.of(SiteScores.of(said, codes))
    assert honest.error < 0.015
    assert honest.nll == pytest.approx(honest.entropy, abs=0.03)
    bold = (said * 2).log_softmax(-1)
    assert Calibration.of(SiteScores.of(bold, codes)).error > 0.1
    halves = [temperature_losses(part, own) for part, own in zip(bold.split(5000), codes.split(5000), strict=True)]
    temperature = fit_temperature(torch.stack(halves).sum(0))
    assert temperature == pytest.approx(2.0, rel=0.03)
    mended = Calibration.of(SiteScores.of((bold / temperature).log_softmax(-1), codes))
    assert mended.error < 0.015
    assert fit_temperature(torch.tensor(TEMPERATURES)) == TEMPERATURES[0]


def test_scores_are_what_they_are_called() -> None:
    said, codes = torch.randn(300, 6).log_softmax(-1), torch.randint(6, (300,))
    scores = SiteScores.of(said, codes)
    one_hot = torch.nn.functional.one_hot(codes, 6)
    squares = (said.exp() - one_hot).double().square().sum(-1)
    torch.testing.assert_close(scores.brier, squares, atol=1e-6, rtol=1e-6)
    expected = roc_auc_score(scores.correct == 0, scores.entropy)
    assert auroc(scores.entropy, scores.correct == 0) == pytest.approx(expected)
    ties = (scores.entropy * 3).round()
    assert auroc(ties, scores.correct == 0) == pytest.approx(roc_auc_score(scores.correct == 0, ties))
    assert auroc(ties, torch.ones(300)) == 0.5


def test_codebook_use_finds_what_is_never_and_what_is_too_often_made() -> None:
    data, samples = torch.tensor([50.0, 30, 20, 0]), torch.tensor([10.0, 0, 70, 20])
    use = CodebookUse.of(data, samples)
    assert use.never.tolist() == [1]
    assert use.over[0] == 3
    assert (use.data_codes, use.sample_codes) == (3, 3)
    assert use.sample_perplexity == pytest.approx(0.1**-0.1 * 0.7**-0.7 * 0.2**-0.2)
    assert jensen_shannon(torch.tensor([1.0, 0]), torch.tensor([0.0, 1])) == pytest.approx(math.log(2))
    assert CodebookUse.of(data, data).divergence == 0
    assert histogram(torch.tensor([[0, 2], [2, 2]]), 4).tolist() == [1, 0, 3, 0]


def test_classes_are_told_by_their_codes() -> None:
    labels = torch.arange(200) % 2
    grids = torch.randint(4, (200, 3, 3)) + 4 * labels[:, None, None]
    classifier = CodeClassifier(grids, labels, 2, 8)
    assert torch.equal(classifier.predict(grids), labels)


@pytest.mark.parametrize("name", ["purrception", "dfm"])
def test_drift_is_the_logsumexp_of_the_networks_own_logits(name: str) -> None:
    objective = build_objective(ObjectiveConfig(name=name))
    network = build(input_channels=3 + OBJECTIVES[name].extra_channels)
    codes, labels, noise = torch.randint(9, (6, 2, 2)), torch.arange(6) % 4, torch.randn(6, 3, 2, 2)
    batch = TrainingBatch(codes, labels, noise, torch.zeros(6))
    found = drift_over_time(network, objective, batch, (0.3,), 0.01)[0]
    state = objective.state_at(network, codes, noise, 0.3)
    assert torch.equal(state.open, torch.ones_like(state.open)) == (name == "purrception")
    own = network.head.logits(network(state.z, torch.full((6,), 0.3), labels)).logsumexp(-1)
    assert found.mean == pytest.approx(float(own.mean()), rel=1e-4)
    assert found.pull == pytest.approx(0.02 * float(own.abs().mean()), rel=1e-4)
    lines = [{"step": 1, "loss": 2.0}, {"step": 2, "logsumexp": 3.0, "z_loss": 0.1, "cross_entropy": 1.0}]
    assert DriftInTraining.of(lines).logsumexp == (3.0,)
    assert DriftInTraining.of([]).steps == ()


def test_logits_have_converged_where_the_end_of_training_is_flat() -> None:
    def history(values: list[float]) -> DriftInTraining:
        other = {"z_loss": 0.0, "cross_entropy": 1.0}
        return DriftInTraining.of([{"step": n, "logsumexp": value, **other} for n, value in enumerate(values)])

    assert history([*(0.5 * n for n in range(15)), *[7.5] * 10]).has_converged()
    assert not history([0.5 * n for n in range(25)]).has_converged()
    assert history([3.0]).has_converged()


def test_half_of_the_tokens_are_decided_when_their_codes_stop_changing() -> None:
    # The codes of the three tokens last change at the second evaluation, never, and at the fourth.
    codes = torch.tensor([[0, 1, 5], [2, 1, 6], [2, 1, 7], [2, 1, 8]]).view(4, 1, 1, 3)
    nothing = torch.zeros(4, 1, 1, 3)
    uncertainty = Uncertainty(nothing, nothing, nothing, nothing, codes)
    trajectory = Trajectory((0.0, 0.25, 0.5, 0.75), nothing, nothing, uncertainty, nothing[0])
    assert trajectory.half_decided_at() == 0.25


@pytest.mark.parametrize("head", ["linear", "geometric", "regression"])
@pytest.mark.parametrize("evidence", [False, True])
def test_jacobian_norms_equal_those_of_whole_jacobians_to_1e_3(head: str, evidence: bool) -> None:
    if head == "regression" and evidence:
        pytest.skip("a regression head has no evidence")
    network, labels = build(head_kind=head, evidence=evidence), torch.arange(3)
    objective = build_objective(ObjectiveConfig(name="cfm" if head == "regression" else "purrception"))
    z = torch.randn(3, 3, 2, 2)
    field = velocity_field(network_mean(network, objective, labels), 0.4)
    whole = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda state, n=number: field(z.index_put((torch.tensor(n),), state))[n], z[number]
            ).reshape(12, 12)
            for number in range(3)
        ]
    )
    torch.testing.assert_close(jacobians(field, z), whole, atol=1e-4, rtol=1e-4)
    found = Stiffness.of(field, z, iterations=150)
    torch.testing.assert_close(found.largest, torch.linalg.matrix_norm(whole, ord=2), rtol=1e-3, atol=1e-3)
    expected = torch.linalg.eigvalsh(0.5 * (whole + whole.mT))[:, -1]
    torch.testing.assert_close(found.growth, expected, rtol=1e-3, atol=1e-2)


def test_stiffness_of_a_linear_field_is_that_of_its_matrix() -> None:
    matrix = torch.tensor([[0.0, 4.0], [0.0, -1.0]], dtype=torch.float64)
    found = Stiffness.of(lambda z: z @ matrix.T, torch.randn(2, 2, dtype=torch.float64), iterations=500)
    assert found.largest.tolist() == pytest.approx([17**0.5] * 2, rel=1e-3)
    assert found.growth.tolist() == pytest.approx([(17**0.5 - 1) / 2] * 2, rel=1e-3)


def curvature_of(mean: MeanFunction, noise: Tensor, steps: int) -> Curvature:
    return measure_curvature(mean, noise, euler, get_timesteps("uniform", steps))


def test_straight_paths_are_straight_and_bent_ones_are_not() -> None:
    noise, target = torch.randn(8, 2, 1, 1), torch.randn(8, 2, 1, 1)
    straight = curvature_of(lambda z, t: target, noise, 50)
    assert straight.straightness == pytest.approx(1, abs=1e-6)
    assert straight.detour == pytest.approx(1, abs=1e-6)
    assert max(straight.curvature) < 1e-4
    # dz/dt = (target(t) − z)/(1 − t) with a target that moves at speed 1: |dv/dt| = 1/(1 − t)
    bent = curvature_of(lambda z, t: torch.full_like(z, t), noise, 200)
    for t, curvature in zip(bent.times, bent.curvature, strict=True):
        assert curvature == pytest.approx(1 / (1 - t), rel=1e-3)
    assert bent.straightness < 1


def test_a_proposed_grid_spends_steps_where_paths_bend_and_beats_the_uniform_one() -> None:
    def mean(z: Tensor, t: float) -> Tensor:
        return torch.tanh(torch.full_like(z, (t - 0.3) / 0.05)) + 0.3 * z.tanh()

    noise = torch.randn(16, 2, 1, 1)
    proposed = proposed_timesteps(curvature_of(mean, noise, 200), 12)
    assert (proposed[0], proposed[-1], len(proposed)) == (0.0, 1.0, 13)
    assert all(t < s for t, s in pairwise(proposed))
    assert sum(0.2 < t < 0.4 for t in proposed) > 3
    codes = torch.randn(4, 2)
    grids = {"uniform": get_timesteps("uniform", 12), "proposed": proposed, "same": get_timesteps("uniform", 400)}
    errors = grid_errors(mean, codes, noise, euler, grids, 400)
    assert errors["same"].error == errors["same"].codes_changed == 0
    assert errors["proposed"].error < 2 * errors["uniform"].error


def test_damaged_posteriors_are_posteriors() -> None:
    network, z = build(), torch.randn(2, 3, 2, 2)
    plain = network_posterior(network, torch.arange(2))
    for damaged in (tempered(plain, 0.5), blurred(plain, 0.3)):
        torch.testing.assert_close(damaged(z, 0.5).exp().sum(-1), torch.ones(2, 2, 2))
    assert float(blurred(plain, 0.3)(z, 0.5).exp().min()) >= 0.3 / 9 - 1e-6


def test_effects_of_a_temperature_are_counted_by_class_and_site() -> None:
    plain = Generation(torch.zeros(4, 1, 2, dtype=torch.long), torch.ones(4, 1, 2), 3)
    moved = replace(plain, indices=torch.tensor([[[0, 1]], [[0, 0]], [[0, 1]], [[0, 0]]]))
    labels, predicted = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 0, 1])
    found = TemperatureEffect.of(moved, plain, labels, predicted, 3)
    assert found.changed.tolist() == [[0.0, 0.5]]
    assert found.changed_by_class[:2].tolist() == [0.5, 0.0]
    assert found.recognised[:2].tolist() == [1.0, 0.5]
    assert bool(found.recognised[2].isnan())
    assert found.entropy == 1.0
