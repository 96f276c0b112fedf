"""Part 6: smoothness of the velocity field over t and over checkpoints, and a time grid made from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from purrception.diagnose.loaded_run import LoadedRun
from purrception.experiment.build import build_network
from purrception.flow import SPACINGS, get_solver, get_timesteps
from purrception.flow.timesteps import Timesteps
from purrception.instruments.posteriors import network_mean
from purrception.instruments.smoothness import (
    Curvature,
    GridError,
    Stiffness,
    grid_errors,
    measure_curvature,
    proposed_timesteps,
    velocity_field,
)
from purrception.models import PurrceptionTransformer
from purrception.storage.report import Section
from purrception.training import CheckpointStore, DamagedCheckpointError
from purrception.utils.keyed_rng import Stream
from purrception.utils.progress import note
from purrception.utils.text import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95)
IMAGES, ITERATIONS = 12, 20
PATHS, FINE, STEPS = 64, 200, (5, 10, 20)
CHECKPOINTS = 4


def smoothness_section(run: LoadedRun) -> Section:
    """Jacobians over t for each checkpoint; curvature of paths; a time grid made from it."""
    fields = {step: _stiffness(run, network) for step, network in _checkpoints(run)}
    latest = fields[max(fields)]
    labels = run.labels(min(PATHS, run.num))
    mean = network_mean(run.network, run.objective, labels)
    noise = run.noise(len(labels))
    curvature = measure_curvature(mean, noise, get_solver("euler"), get_timesteps("uniform", FINE // 2))
    grids = {
        steps: {
            **{name: get_timesteps(name, steps) for name in SPACINGS},
            "proposed": proposed_timesteps(curvature, steps),
        }
        for steps in STEPS
    }
    errors = {
        steps: grid_errors(mean, run.codebook, noise, get_solver("euler"), named, FINE)
        for steps, named in grids.items()
    }
    rows = [
        [f"{t:.2f}", *map(float, (one.largest.mean(), one.largest.max(), one.growth.mean(), one.growth.max()))]
        for t, one in latest.items()
    ]
    compared = [
        [name, *(f"{errors[n][name].error:.3f} ({errors[n][name].codes_changed:.1%})" for n in STEPS)]
        for name in errors[STEPS[0]]
    ]
    proposal = ", ".join(f"{t:.3f}" for t in grids[STEPS[1]]["proposed"])
    text = [
        f"Largest singular value σ of the velocity's Jacobian (a lower bound by {ITERATIONS} power iterations) "
        f"and largest growth rate λ (of its symmetric part) at {min(IMAGES, run.num)} training images. Near t = "
        "1, a field that only contracts has σ = 1/(1 − t); where λ is positive, neighbouring paths diverge and "
        "images are decided.",
        table(["t", "σ, mean", "σ, largest", "λ, mean", "λ, largest"], rows),
        table(
            ["checkpoint", *(f"σ at t = {t:.2f}" for t in TIMES)],
            [[step, *(float(found[t].largest.mean()) for t in TIMES)] for step, found in fields.items()],
        ),
        f"Straightness of {len(labels)} paths: {curvature.straightness:.3f} (1: straight lines); their length is "
        f"{curvature.detour:.2f} times the distance of their ends. Steps matter most where the mean moves: with a "
        f"density proportional to the root of |dμ/dt| = (1 − t) |dv/dt|, {STEPS[1]} steps are at {proposal}.",
        f"Euler on each grid against {FINE} uniform steps from the same noise: root mean square error of the "
        "end, and in brackets the share of tokens whose code differs.",
        table(["grid", *(f"NFE {steps}" for steps in STEPS)], compared),
    ]
    data = {
        "stiffness": fields,
        "bending": curvature,
        "proposed_grids": {steps: named["proposed"] for steps, named in grids.items()},
        "grid_errors": errors,
    }
    return Section(
        "Smoothness", text, data, {"smoothness.png": _draw(fields, curvature, grids[STEPS[1]]["proposed"], errors)}
    )


def _checkpoints(run: LoadedRun) -> Iterator[tuple[int, PurrceptionTransformer]]:
    """(step, network with averaged weights) of the model itself and up to three other checkpoints."""
    saved = CheckpointStore(run.directory.checkpoints).all()
    for checkpoint in [one for one in saved if one.state.step != run.step][-(CHECKPOINTS - 1) :]:
        network = build_network(run.config, run.train.manifest, run.tokenizer)
        try:
            checkpoint.check()
            checkpoint.load_network(network, ema=True)
        except DamagedCheckpointError as error:
            note(f"warning: {error}")
            continue
        yield checkpoint.state.step, network.to(run.network.device).eval().requires_grad_(False)
    yield run.step, run.network


def _stiffness(run: LoadedRun, network: PurrceptionTransformer) -> dict[float, Stiffness]:
    indices, labels = run.rows(run.train, min(IMAGES, run.num))
    noise = run.noise(len(indices), Stream.VALIDATION)
    mean = network_mean(network, run.objective, labels)
    states = {t: run.objective.state_at(network, indices, noise, t).z for t in TIMES}
    return {t: Stiffness.of(velocity_field(mean, t), z, ITERATIONS, run.seed) for t, z in states.items()}


def _draw(
    fields: dict[int, dict[float, Stiffness]],
    curvature: Curvature,
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
    curve.plot(curvature.times, curvature.curvature)
    curve.vlines(
        grid, 0, 0.06 * max(curvature.curvature), color="C3", linewidth=1, label=f"{len(grid) - 1} steps proposed"
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
