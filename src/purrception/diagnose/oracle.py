"""Part 5: the model beside the exact posterior of its training set, and whether it repeats what it learned."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purrception.diagnose.subject import Subject
from purrception.flow import get_solver, get_timesteps, nearest_codes
from purrception.flow.posterior import posterior_from_logits
from purrception.instruments.oracle import Gap, Memorisation, nearest_grid
from purrception.instruments.posteriors import images_at_once, mean_function, network_mean, network_posterior
from purrception.storage.report import Section
from purrception.tokens import TokenDataset
from purrception.utils.keyed_rng import Stream
from purrception.utils.markdown import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SOLVERS = ("euler", "heun", "midpoint", "dpmpp_2m", "stochastic")
STEPS = (4, 8, 16, 32)
LANDINGS = 128


@dataclass(frozen=True)
class GapAt:
    """Means over images of one split at one time; none of a model without a posterior where it takes one."""

    t: float
    exact_entropy: float
    """Of the exact posterior, nats per site."""
    divergence: float | None
    """KL(exact ‖ model), nats per site."""
    total_variation: float | None
    velocity_error: float
    """Root mean square of |v_θ − v| over images, of a whole grid."""
    velocity: float
    """Root mean square of |v|, beside it."""


def oracle_section(subject: Subject) -> Section:
    """KL, total variation and velocity error over t; where solvers land with the truth; copies among samples."""
    assert subject.held_out is not None
    splits = {"training": subject.train, "held-out": subject.held_out}
    gaps = {name: [_gap(subject, tokens, t) for t in TIMES] for name, tokens in splits.items()}
    landed = _landings(subject)
    memory = Memorisation.of(
        subject.samples.indices,
        subject.rows(subject.held_out, subject.num)[0].cpu(),
        subject.training_rows[0].cpu(),
    )
    sites = subject.samples.indices[0].numel()
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
    header = [
        "t",
        "exact entropy",
        "KL",
        "TV",
        "error of v",
        "length of v",
        "KL, held out",
        "TV, held out",
        "error of v, held out",
    ]
    text = [
        f"The exact posterior of the {len(subject.oracle.grids)} training grids"
        + (", each class by itself" if subject.classes else "")
        + ": what the training loss is lowest for, and what repeats the training set. KL(exact ‖ model) in "
        f"nats per token and total variation, at z_t of up to {subject.num} training and held-out images. A "
        "model that generalises departs from it most on held-out images, where the exact posterior knows "
        "only its training grids.",
        table(header, rows),
        f"With the exact posterior in place of the network: share of {LANDINGS} samples that are a training "
        "grid, code for code, by steps.",
        table(
            ["solver", *(f"{steps} steps" for steps in STEPS)],
            [[name, *shares] for name, shares in landed.items()],
        ),
        _verdict(memory, sites),
    ]
    data = {
        "gaps": {name: [asdict(one) for one in found] for name, found in gaps.items()},
        "landed": {name: dict(zip(map(str, STEPS), shares, strict=True)) for name, shares in landed.items()},
        "memorisation": memory,
    }
    return Section("The exact posterior", text, data, {"oracle.png": _draw(gaps, memory, sites)})


def _or_dash(*values: float | None) -> list[float | str]:
    return ["–" if value is None else value for value in values]


def _gap(subject: Subject, tokens: TokenDataset, t: float) -> GapAt:
    indices, labels = subject.rows(tokens, subject.num)
    noise = subject.noise(len(indices), Stream.VALIDATION)
    columns: list[tuple[Tensor | None, ...]] = []
    for rows in torch.arange(len(indices), device=indices.device).split(images_at_once(subject.network)):
        z = subject.objective.state_at(subject.network, indices[rows], noise[rows], t).z
        exact = subject.oracle.posterior(labels[rows])(z, t)
        truth = posterior_from_logits(exact, subject.codebook)
        mean = truth.mean.double()
        if subject.has_posterior:
            gap = Gap.of(exact, network_posterior(subject.network, labels[rows])(z, t), subject.codebook, t)
            columns.append(
                (truth.entropy, gap.divergence, gap.total_variation, gap.velocity_error, (mean - z) / (1 - t))
            )
        else:
            said = network_mean(subject.network, subject.objective, labels[rows])(z, t)
            error = (said.double() - mean).flatten(1).norm(dim=1) / (1 - t)
            columns.append((truth.entropy, None, None, error, (mean - z) / (1 - t)))
    entropy, divergence, variation, error, velocity = (
        None if parts[0] is None else torch.cat(parts) for parts in zip(*columns, strict=True)
    )
    assert entropy is not None
    assert error is not None
    assert velocity is not None
    return GapAt(
        t,
        float(entropy.double().mean()),
        None if divergence is None else float(divergence.mean()),
        None if variation is None else float(variation.mean()),
        float(error.square().mean().sqrt()),
        float(velocity.flatten(1).norm(dim=1).square().mean().sqrt()),
    )


def _landings(subject: Subject) -> dict[str, list[float]]:
    """Share of samples of the exact posterior that are training grids, by solver and steps."""
    labels = subject.labels(LANDINGS)
    mean = mean_function(subject.oracle.posterior(labels), subject.codebook)
    noise = subject.noise(LANDINGS)

    def fresh(step: int) -> Tensor:
        return subject.noise(LANDINGS, step=step + 1)

    found: dict[str, list[float]] = {}
    for name in SOLVERS:
        ends = [get_solver(name, noise=fresh)(mean, noise, get_timesteps("uniform", steps)) for steps in STEPS]
        nearest = [nearest_grid(nearest_codes(end, subject.codebook), subject.oracle.grids) for end in ends]
        found[name] = [float((differing == 0).double().mean()) for differing in nearest]
    return found


def _verdict(memory: Memorisation, sites: int) -> str:
    """Memorised or generalised, in a sentence with its figures."""
    quarters = [
        " / ".join(
            f"{value:.0f}" for value in torch.quantile(one.double(), torch.tensor([0.25, 0.5, 0.75]).double())
        )
        for one in (memory.samples, memory.held_out)
    ]
    if memory.nearer > 0.9:
        word = "repeats its training images"
    elif memory.nearer > 0.6:
        word = "keeps nearer to its training images than new images would"
    else:
        word = "generalises: its samples are no nearer to training images than images it has never seen"
    return (
        f"Memorised or generalised: {memory.copies:.1%} of samples are a training grid, of held-out images "
        f"{memory.held_out_copies:.1%}. Tokens of {sites} that differ from the nearest training grid "
        f"(quartiles): samples {quarters[0]}, held-out images {quarters[1]}. A sample is the nearer of the "
        f"two with probability {memory.nearer:.2f} (½: generalises, 1: repeats). The model {word}."
    )


def _draw(gaps: dict[str, list[GapAt]], memory: Memorisation, sites: int) -> Figure:
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
