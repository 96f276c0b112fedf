"""Part 5: the model against the exact posterior of its training set, and whether it memorises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purrception.diagnose.loaded_run import LoadedRun
from purrception.flow import get_solver, get_timesteps, nearest_codes
from purrception.instruments.oracle import MeanGap, Memorisation, nearest_grid
from purrception.instruments.posteriors import mean_function
from purrception.storage.report import Section
from purrception.tokens import TokenDataset
from purrception.utils.keyed_rng import Stream
from purrception.utils.text import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SOLVERS = ("euler", "heun", "midpoint", "dpmpp_2m", "stochastic")
STEPS = (4, 8, 16, 32)
SAMPLES = 128


def oracle_section(run: LoadedRun) -> Section:
    """KL, total variation and velocity error over t; what solvers do with the exact posterior; memorisation."""
    assert run.held_out is not None
    splits = {"training": run.train, "held-out": run.held_out}
    gaps = {name: [_gap(run, tokens, t) for t in TIMES] for name, tokens in splits.items()}
    copies = _copies_by_solver(run)
    unseen, train = run.rows(run.held_out, run.num)[0].cpu(), run.training_rows[0].cpu()
    memory = Memorisation.of(run.samples.indices, unseen, train)
    sites = run.samples.indices[0].numel()
    rows = [
        [
            f"{one.t:.1f}",
            one.exact_entropy,
            *_or_dash(one.divergence, one.total_variation),
            one.velocity_error,
            one.velocity,
            *_or_dash(other.divergence, other.total_variation),
            other.velocity_error,
        ]
        for one, other in zip(gaps["training"], gaps["held-out"], strict=True)
    ]
    header = ["t", "exact entropy", "KL", "TV", "error of v", "length of v"]
    header += ["KL, held out", "TV, held out", "error of v, held out"]
    text = [
        f"The exact posterior of the {len(run.oracle.grids)} training grids"
        + (", for each class separately" if run.classes else "")
        + ", which minimises the training loss and repeats the training set. KL(exact ‖ model) in nats per token "
        f"and total variation, at z_t of up to {run.num} training and held-out images. A model that generalises "
        "differs from it most on held-out images, since the exact posterior knows only the training grids.",
        table(header, rows),
        f"With the exact posterior in place of the network: share of {SAMPLES} samples that are exact copies of a "
        "training grid, by solver and steps.",
        table(
            ["solver", *(f"{steps} steps" for steps in STEPS)],
            [[name, *shares] for name, shares in copies.items()],
        ),
        _describe_memorisation(memory, sites),
    ]
    data = {
        "gaps": gaps,
        "landed": {name: dict(zip(STEPS, shares, strict=True)) for name, shares in copies.items()},
        "memorisation": memory,
    }
    return Section("The exact posterior", text, data, {"oracle.png": _draw(gaps, memory, sites)})


def _or_dash(*values: float | None) -> list[float | str]:
    return ["–" if value is None else value for value in values]


def _gap(run: LoadedRun, tokens: TokenDataset, t: float) -> MeanGap:
    indices, labels = run.rows(tokens, run.num)
    noise = run.noise(len(indices), Stream.VALIDATION)
    return MeanGap.of(run.oracle, run.network, run.objective, indices, labels, noise, t)


def _copies_by_solver(run: LoadedRun) -> dict[str, list[float]]:
    """Share of samples of the exact posterior that are training grids, by solver and steps."""
    labels = run.labels(SAMPLES)
    mean = mean_function(run.oracle.posterior(labels), run.codebook)
    noise = run.noise(SAMPLES)

    def fresh(step: int) -> Tensor:
        return run.noise(SAMPLES, step=step + 1)

    found: dict[str, list[float]] = {}
    for name in SOLVERS:
        ends = [get_solver(name, noise=fresh)(mean, noise, get_timesteps("uniform", steps)) for steps in STEPS]
        nearest = [nearest_grid(nearest_codes(end, run.codebook), run.oracle.grids) for end in ends]
        found[name] = [float((differing == 0).double().mean()) for differing in nearest]
    return found


def _describe_memorisation(memory: Memorisation, sites: int) -> str:
    """Whether the model memorises or generalises, in a few sentences."""
    quarters = [
        " / ".join(
            f"{value:.0f}" for value in torch.quantile(one.double(), torch.tensor([0.25, 0.5, 0.75]).double())
        )
        for one in (memory.samples, memory.held_out)
    ]
    if memory.nearer > 0.9:
        conclusion = "memorises its training images"
    elif memory.nearer > 0.6:
        conclusion = "stays closer to its training images than new images would"
    else:
        conclusion = "generalises: its samples are no closer to training images than images it has never seen"
    return (
        f"Memorisation: {memory.copies:.1%} of samples are copies of a training grid; of held-out images, "
        f"{memory.held_out_copies:.1%}. Of {sites} tokens, this many differ from the nearest training grid "
        f"(quartiles): samples {quarters[0]}, held-out images {quarters[1]}. A sample is closer than a held-out "
        f"image with probability {memory.nearer:.2f} (½: generalises, 1: memorises). The model {conclusion}."
    )


def _draw(gaps: dict[str, list[MeanGap]], memory: Memorisation, sites: int) -> Figure:
    figure, made = panels(4, width=3.7)
    titles = {
        "divergence": "KL(exact ‖ model), nats",
        "total_variation": "total variation",
        "velocity_error": "velocity error of a grid",
    }
    for panel, (name, title) in zip(made, titles.items(), strict=False):
        for split, found in gaps.items():
            values = [getattr(one, name) for one in found]
            if None not in values:
                panel.plot([one.t for one in found], values, marker="o", ms=3, label=split)
        if name == "velocity_error":
            panel.plot(
                TIMES, [one.velocity for one in gaps["training"]], color="grey", linestyle="--", label="|v|"
            )
        panel.set(xlabel="t", title=title, ylim=(0, None))
    made[2].legend(fontsize=8)
    edges = [site - 0.5 for site in range(sites + 2)]
    for distances, label in ((memory.samples, "samples"), (memory.held_out, "held-out images")):
        made[3].hist(distances.numpy(), bins=edges, alpha=0.55, density=True, label=label)
    made[3].set(xlabel="tokens that differ", title="distance to the nearest training grid")
    made[3].legend(fontsize=8)
    return figure
