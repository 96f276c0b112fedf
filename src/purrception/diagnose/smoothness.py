"""Part 6: how smooth the field is, over t and over the checkpoints, and where steps should be spent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purrception.diagnose.subject import Subject
from purrception.experiment.build import build_network
from purrception.flow import SPACINGS, get_solver, get_timesteps
from purrception.flow.timesteps import Timesteps
from purrception.instruments.posteriors import network_mean
from purrception.instruments.smoothness import (
    Bending,
    GridError,
    Stiffness,
    bending,
    grid_errors,
    proposed_timesteps,
    velocity_field,
)
from purrception.models import PurrceptionTransformer
from purrception.storage.report import Section
from purrception.training import CheckpointStore, DamagedCheckpointError
from purrception.utils.keyed_rng import Stream
from purrception.utils.markdown import table
from purrception.utils.progress import note
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95)
IMAGES, ITERATIONS = 12, 20
PATHS, FINE, STEPS = 64, 200, (5, 10, 20)
CHECKPOINTS = 4


def smoothness_section(subject: Subject) -> Section:
    """Jacobians over t, of each checkpoint there is; bending of paths; a time grid made from it."""
    fields = {step: _stiffness(subject, network) for step, network in _checkpoints(subject)}
    latest = fields[max(fields)]
    labels = subject.labels(min(PATHS, subject.num))
    mean = network_mean(subject.network, subject.objective, labels)
    noise = subject.noise(len(labels))
    bent = _bending(subject, noise, labels)
    grids = {
        steps: {
            **{name: get_timesteps(name, steps) for name in SPACINGS},
            "proposed": proposed_timesteps(bent, steps),
        }
        for steps in STEPS
    }
    errors = {
        steps: grid_errors(mean, subject.codebook, noise, get_solver("euler"), named, FINE)
        for steps, named in grids.items()
    }
    rows = [
        [
            f"{t:.2f}",
            float(one.largest.mean()),
            float(one.largest.max()),
            float(one.growth.mean()),
            float(one.growth.max()),
        ]
        for t, one in latest.items()
    ]
    proposal = ", ".join(f"{t:.3f}" for t in grids[STEPS[1]]["proposed"])
    text = [
        f"Largest singular value σ of the velocity's Jacobian (power iteration, {ITERATIONS} rounds, from "
        f"below) and largest growth rate λ (of its symmetric part) at {min(IMAGES, subject.num)} training "
        "images. σ near t = 1 is 1/(1 − t) for a field that only contracts; λ above 0 is where neighbours "
        "part and images are decided.",
        table(["t", "σ, mean", "σ, largest", "λ, mean", "λ, largest"], rows),
        table(
            ["checkpoint", *(f"σ at t = {t:.2f}" for t in TIMES)],
            [[step, *(float(found[t].largest.mean()) for t in TIMES)] for step, found in fields.items()],
        ),
        f"Straightness of {len(labels)} paths {bent.straightness:.3f} (1: straight lines); their length is "
        f"{bent.detour:.2f} times the distance of their ends. Steps cost most where the mean "
        f"moves: in proportion to the root of |dμ/dt| = (1 − t) |dv/dt|, {STEPS[1]} steps are at {proposal}.",
        f"Euler on each grid against {FINE} uniform steps from the same noise: root mean square error of the "
        "end, and in brackets the share of tokens whose code is another one.",
        table(["grid", *(f"NFE {steps}" for steps in STEPS)], _grid_rows(errors)),
    ]
    data = {
        "stiffness": {str(step): {f"{t:g}": one for t, one in found.items()} for step, found in fields.items()},
        "bending": bent,
        "proposed_grids": {str(steps): named["proposed"] for steps, named in grids.items()},
        "grid_errors": {str(steps): named for steps, named in errors.items()},
    }
    return Section(
        "Smoothness", text, data, {"smoothness.png": _draw(fields, bent, grids[STEPS[1]]["proposed"], errors)}
    )


def _checkpoints(subject: Subject) -> Iterator[tuple[int, PurrceptionTransformer]]:
    """(step, network with averaged weights) of up to four checkpoints, and the model itself."""
    saved = CheckpointStore(subject.run.checkpoints).all()
    for checkpoint in [one for one in saved if one.state.step != subject.step][-(CHECKPOINTS - 1) :]:
        network = build_network(subject.config, subject.train.manifest, subject.tokenizer)
        try:
            checkpoint.check()
            checkpoint.load_network(network, ema=True)
        except DamagedCheckpointError as error:
            note(f"warning: {error}")
            continue
        yield checkpoint.state.step, network.to(subject.network.device).eval().requires_grad_(False)
    yield subject.step, subject.network


def _stiffness(subject: Subject, network: PurrceptionTransformer) -> dict[float, Stiffness]:
    indices, labels = subject.rows(subject.train, min(IMAGES, subject.num))
    noise = subject.noise(len(indices), Stream.VALIDATION)
    mean = network_mean(network, subject.objective, labels)
    return {
        t: Stiffness.of(
            velocity_field(mean, t),
            subject.objective.state_at(network, indices, noise, t).z,
            ITERATIONS,
            subject.seed,
        )
        for t in TIMES
    }


def _bending(subject: Subject, noise: Tensor, labels: Tensor) -> Bending:
    """Of the plain model's paths, with many small steps."""
    times: list[float] = []
    states: list[Tensor] = []
    means: list[Tensor] = []
    plain = network_mean(subject.network, subject.objective, labels)

    def mean(z: Tensor, t: float) -> Tensor:
        times.append(t)
        states.append(z)
        means.append(plain(z, t))
        return means[-1]

    end = get_solver("euler")(mean, noise, get_timesteps("uniform", FINE // 2))
    return bending(tuple(times), torch.stack(states), torch.stack(means), end)


def _grid_rows(errors: dict[int, dict[str, GridError]]) -> list[list[str]]:
    names = errors[STEPS[0]]
    return [
        [name, *(f"{errors[n][name].error:.3f} ({errors[n][name].codes_changed:.1%})" for n in STEPS)]
        for name in names
    ]


def _draw(
    fields: dict[int, dict[float, Stiffness]],
    bent: Bending,
    grid: Timesteps,
    errors: dict[int, dict[str, GridError]],
) -> Figure:
    figure, (largest, growth, curve, compared) = panels(4, width=3.7)
    for step, found in fields.items():
        largest.plot(
            TIMES, [float(one.largest.mean()) for one in found.values()], marker="o", ms=3, label=f"step {step}"
        )
        growth.plot(TIMES, [float(one.growth.max()) for one in found.values()], marker="o", ms=3)
    largest.plot(TIMES, [1 / (1 - t) for t in TIMES], color="grey", linestyle=":", label="1/(1 − t)")
    largest.set(xlabel="t", yscale="log", title="largest singular value, mean")
    growth.axhline(0, color="grey", linestyle=":")
    growth.set(xlabel="t", title="growth rate of differences, largest")
    largest.legend(fontsize=7)
    curve.plot(bent.times, bent.curvature)
    curve.vlines(
        grid, 0, 0.06 * max(bent.curvature), color="C3", linewidth=1, label=f"{len(grid) - 1} steps proposed"
    )
    curve.set(xlabel="t", title="|dv/dt| per latent number", ylim=(0, None))
    curve.legend(fontsize=7)
    for name in errors[STEPS[0]]:
        compared.plot(STEPS, [errors[steps][name].error for steps in STEPS], marker="o", ms=3, label=name)
    compared.set(
        xlabel="network evaluations", xscale="log", yscale="log", title="error of Euler's end, by time grid"
    )
    compared.set_xticks(STEPS, [str(steps) for steps in STEPS])
    compared.minorticks_off()
    compared.legend(fontsize=7)
    return figure
