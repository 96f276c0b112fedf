"""Curves, ratios and fronts: the arithmetic of a comparison."""

from __future__ import annotations

import math

import numpy as np
import pytest

from purrception.comparison.entries import configure
from purrception.comparison.report import curve, draw_floor, mean_and_spread
from purrception.comparison.run import geometric_steps
from purrception.comparison.settings import SweepSpace, different
from purrception.comparison.speed import ROUNDS, SpeedRatio, falling, first_reach, speed_ratios
from purrception.comparison.sweep import pareto_front
from purrception.experiment.recipes import get_recipe
from purrception.flow import SamplingConfig
from purrception.utils.errors import InputError


def row(entry: str, seed: int, step: int, frechet: float) -> dict[str, object]:
    return {"entry": entry, "seed": seed, "step": step, "seconds": step * 2.0, "frechet": frechet}


ROWS = [
    row(entry, seed, step, level * scale * height)
    for entry, level in (("fast", 1.0), ("slow", 2.0))
    for seed, scale in ((0, 0.9), (1, 1.1))
    for step, height in ((100, 8), (200, 4), (400, 2))
]


def test_curves_are_means_over_seeds() -> None:
    positions, values = curve(ROWS, "slow", "step", "frechet")
    assert positions.tolist() == [100, 200, 400]
    np.testing.assert_allclose(values, [16, 8, 4])


@pytest.mark.parametrize(("floor", "drawn"), [(4.0, True), (1.9, True), (0.4, False)])
def test_a_floor_far_below_does_not_squeeze_the_curves_of_a_picture(floor: float, drawn: bool) -> None:
    from matplotlib.figure import Figure

    panel = Figure().subplots()
    panel.plot([100, 400], [16.0, 4.0])
    draw_floor(panel, floor, [16.0, 4.0])
    low, _ = panel.get_ylim()
    assert (low < floor + 1) == drawn
    assert [text.get_text() for text in panel.texts] == ([] if drawn else ["real training images: 0.4"])


def speed_ratio(
    rows: list[dict[str, object]], a: str, b: str, axis: str, metric: str, rounds: int = ROUNDS
) -> SpeedRatio:
    return speed_ratios(rows, (a, b), axis, metric, rounds)[a, b]


def test_ratio_is_of_the_steps_needed_for_what_both_reach() -> None:
    ratio = speed_ratio(ROWS, "fast", "slow", "step", "frechet")
    assert ratio.ratio == pytest.approx(2.0)  # 4 is reached at 200 of 400 steps
    assert speed_ratio(ROWS, "slow", "fast", "step", "frechet").ratio == pytest.approx(0.5)
    assert speed_ratio(ROWS, "fast", "slow", "seconds", "frechet").ratio == pytest.approx(2.0)
    assert ratio.low is not None
    assert ratio.differs  # equal on every seed
    easy = [*ROWS, *(row("weak", seed, step, 100 - step / 20) for seed in (0, 1) for step in (100, 400))]
    bound = speed_ratio(easy, "slow", "weak", "step", "frechet")
    assert (bound.bound, str(bound).startswith("≥")) == ("at least", True)
    alone = [one for one in ROWS if one["seed"] == 0]
    assert speed_ratio(alone, "fast", "slow", "step", "frechet").low is None


def test_nothing_is_told_of_two_that_were_there_at_once() -> None:
    """Of bounds that rise from the start the one with cheaper steps looked 1.5 times faster by seconds."""
    rows = [
        row(entry, seed, step, 5 + seed / 10 + step / 1000) | {"seconds": step * cost}
        for entry, cost in (("cheap", 2.0), ("dear", 3.0))
        for seed in (0, 1, 2)
        for step in (100, 200, 400)
    ]
    both = [speed_ratio(rows, *names, "seconds", "frechet") for names in (("cheap", "dear"), ("dear", "cheap"))]
    assert both == [SpeedRatio(1.0, None, None, "unknown")] * 2
    assert not both[0].differs
    assert str(both[0]) == "both at once"


def test_equal_trainings_are_told_apart_as_rarely_as_promised() -> None:
    """5 % of noise on each measurement: 39 % of first passages of the noisy end showed a ratio above 1.1."""
    generator = np.random.default_rng(0)
    claimed = 0
    for _ in range(40):
        rows = [
            row(entry, seed, step, 100 * step**-0.5 * math.exp(0.05 * generator.standard_normal()))
            for entry in ("one", "other")
            for seed in range(4)
            for step in geometric_steps(1600, 7)
        ]
        claimed += speed_ratio(rows, "one", "other", "step", "frechet", rounds=40).differs
    assert claimed <= 6  # of 40; 2 are expected


def test_a_true_ratio_lies_in_its_interval() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(30):
        rows = [
            row(entry, seed, step, 100 * (scale * step) ** -0.5 * math.exp(0.05 * generator.standard_normal()))
            for entry, scale in (("fast", 2.0), ("slow", 1.0))
            for seed in range(4)
            for step in geometric_steps(1600, 7)
        ]
        found = speed_ratio(rows, "fast", "slow", "step", "frechet", rounds=40)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 2 <= found.high
        assert found.differs
    assert covered >= 26


def test_a_falling_curve_pools_what_rises() -> None:
    assert falling(np.arange(4.0), np.array([4.0, 1.0, 2.0, 0.0])).tolist() == pytest.approx([4, 7 / 3, 1, 0])
    level = [5.0, 0.1, 0.1, 0.1, -3.0]  # one block, though 0.1 + 0.1 + 0.1 is not 0.3
    assert falling(np.arange(5.0), np.array(level)).tolist() == pytest.approx([5, 2.55, 0.1, -1.45, -3])


def test_first_reach_interpolates_in_the_logarithm_of_the_steps() -> None:
    positions, values = np.array([100.0, 400.0]), np.array([10.0, 6.0])
    assert first_reach(positions, values, 8.0) == pytest.approx(200)
    assert first_reach(positions, values, 20.0) == 100
    assert math.isinf(first_reach(positions, values, 5.0))


def test_steps_are_geometric_and_end_at_the_last() -> None:
    assert geometric_steps(800, 4) == [283, 400, 566, 800]
    assert geometric_steps(2, 6) == [1, 2]


def test_spread_is_shown_only_where_there_is_one() -> None:
    assert mean_and_spread([1.0, 3.0]) == "2 ± 1.4"
    assert mean_and_spread([1.5]) == "1.5"
    assert mean_and_spread([None, None]) == "–"


def test_entries_change_the_recipe_and_nothing_else() -> None:
    recipe = get_recipe("digits")
    ours = configure(recipe, "purrception+geometric+evidence+no-z-loss")
    assert (ours.head.kind, ours.head.evidence, ours.objective.z_loss) == ("geometric", True, 0.0)
    assert ours.training == recipe.training
    assert configure(recipe, "dfm").objective.name == "dfm"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("purception", "did you mean 'purrception'"),
        ("purrception+evidenc", "did you mean 'evidence'"),
        ("cfm+evidence", "changes a posterior"),
        ("cfm+geometric", "changes a posterior"),
        ("cfm+no-z-loss", "changes a posterior"),
        ("dfm+evidence", "evidence belongs to a categorical posterior"),
    ],
)
def test_entries_that_cannot_be_are_refused(entry: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        configure(get_recipe("digits"), entry)


def test_entries_are_different() -> None:
    assert different(["cfm", "dfm+factored"]) == ["cfm", "dfm+factored"]
    for entries in ([], ["cfm", "cfm"]):
        with pytest.raises(InputError, match="different objectives"):
            different(entries)


def test_the_front_holds_what_nothing_beats() -> None:
    rows = [{"nfe": n, "frechet": f} for n, f in ((8, 5.0), (4, 9.0), (16, 6.0), (32, 4.0), (8, 7.0))]
    assert [(item["nfe"], item["frechet"]) for item in pareto_front(rows)] == [(4, 9.0), (8, 5.0), (32, 4.0)]


def test_a_sweep_combines_everything_and_checks_it() -> None:
    space = SweepSpace(("1.0", "0.9"), (1.0, 2.0), (4, 8), ("euler",), ("uniform", "cosine"))
    settings = space.settings(SamplingConfig())
    assert len(settings) == len(set(settings)) == 16
    with pytest.raises(InputError, match="did you mean 'euler'"):
        SweepSpace(("1.0",), (1.0,), (4,), ("eulr",), ("uniform",)).settings(SamplingConfig())
