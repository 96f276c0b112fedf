"""Part 7: the error bound of docs/concepts/theory.md, with each constant measured on the run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from purrception.diagnose.loaded_run import LoadedRun
from purrception.diagnose.plotting import evenly_spaced
from purrception.instruments.bound import BoundCheck, check_bound, codebook_diameter, growth_between
from purrception.instruments.posteriors import network_posterior
from purrception.storage.report import Section
from purrception.utils.text import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES, END, STEPS = 8, 0.9, 18
COLUMNS = {
    "error": "ε",
    "error_by_variation": "ε by TV",
    "error_by_divergence": "ε by KL",
    "growth": "λ",
    "distance": "distance",
    "bound_by_paths": "bound, by paths",
    "bound": "bound, by ε and λ",
    "bound_by_divergence": "bound, by KL",
}
"""What the table shows of a :class:`BoundCheck`, and the titles of its columns."""


def bound_section(run: LoadedRun) -> Section:
    """The chain of bounds from KL to the distance of the laws, against the flow of the exact posterior."""
    labels = run.labels(min(IMAGES, run.num))
    model = network_posterior(run.network, labels)
    times = tuple(END * n / STEPS for n in range(STEPS + 1))
    found = check_bound(
        run.oracle.posterior(labels),
        model,
        run.codebook,
        run.noise(len(labels)),
        times,
        growth_between(model, run.codebook),
    )
    diameter = codebook_diameter(run.codebook)
    widest = diameter * math.sqrt(math.prod(run.network.grid))
    vacuous = next(
        (t for t, bound in zip(times, found.bound_by_paths, strict=True) if float(bound) > widest), None
    )
    rows = [
        [f"{times[n]:.2f}", *(float(getattr(found, name)[n]) for name in COLUMNS)]
        for n in evenly_spaced(len(times), 10)
    ]
    text = [
        "The truth is the flow of the training set's exact posterior. ε: velocity error, measured, and bounded "
        "through total variation and through KL (Pinsker). λ: largest growth rate between the two flows. Then "
        "the distance of the two flows from the same noise, which is at least W₂, and bounds on it: by the "
        "constants of each path, by ε and the largest λ, and from KL alone.",
        table(["t", *COLUMNS.values()], rows),
        f"Every inequality held: {'yes' if found.held else '**no**'}. Diameter of the codebook "
        f"{diameter:.2f}; two grids are never further apart than {widest:.1f}, so that a larger bound says "
        "nothing. "
        + (
            f"The bound by paths exceeds it from t = {vacuous:.2f}. "
            if vacuous
            else "The bound by paths stays below it. "
        )
        + "For what replaces it near t = 1, see docs/concepts/theory.md. λ is estimated at three points of each "
        "segment.",
    ]
    data = {"diameter": diameter, "diameter_of_grids": widest, "vacuous_from": vacuous, "check": found}
    return Section("The error bound", text, data, {"bound.png": _draw(found, widest)})


def _draw(found: BoundCheck, widest: float) -> Figure:
    figure, (errors, growth, laws) = panels(3)
    for name, title in (("error", "measured"), ("error_by_variation", "by TV"), ("error_by_divergence", "by KL")):
        errors.plot(found.times, getattr(found, name), label=title)
    errors.set(xlabel="t", yscale="log", title="velocity error ε, and its bounds")
    errors.legend(fontsize=8)
    growth.plot(found.times, found.growth)
    growth.axhline(0, color="grey", linestyle=":")
    growth.set(xlabel="t", title="λ, the fastest growth of differences")
    laws.plot(found.times[1:], found.distance[1:], label="distance of the flows")
    for name in ("bound_by_paths", "bound", "bound_by_divergence"):
        laws.plot(found.times[1:], getattr(found, name)[1:], label=COLUMNS[name])
    laws.axhline(widest, color="grey", linestyle=":", label="diameter: no bound needed")
    smallest = float(found.distance[found.distance > 0].min()) if bool((found.distance > 0).any()) else 1e-3
    laws.set(
        xlabel="t", yscale="log", ylim=(smallest / 2, widest * 1e4), title="distance of the laws, and its bounds"
    )
    laws.legend(fontsize=8)
    return figure
