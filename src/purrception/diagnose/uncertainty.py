"""Part 1: uncertainty of the posterior along the path, in maps and film strips."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from purrception.diagnose.loaded_run import LoadedRun
from purrception.diagnose.plotting import evenly_spaced, hide_axes, show_image, show_map
from purrception.flow import TopCodes
from purrception.flow.nearest import nearest_codes
from purrception.instruments.posteriors import LogPosterior, network_posterior
from purrception.instruments.uncertainty import Trajectory, decode_in_place, record_trajectory, top_codes
from purrception.storage.report import Section
from purrception.utils.text import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES, FRAMES, TOP = 16, 10, 5
MEASURES = {
    "entropy": "entropy, nats",
    "effective_codes": "effective number of codes",
    "margin": "margin of the first code",
    "distance": "expected distance to the mean",
}


def uncertainty_section(run: LoadedRun) -> Section:
    """Maps over images, a film strip of one sample, the most probable codes of one of its tokens."""
    count = min(IMAGES, run.num)
    recorded = record_trajectory(
        _posterior(run, run.labels(count)),
        run.codebook,
        run.noise(count),
        run.settings.build_solver(lambda step: run.noise(count, step=step + 1)),
        run.settings.build_timesteps(),
    )
    final = nearest_codes(recorded.end, run.codebook)
    images = run.tokenizer.decode_images(final)
    entropy = recorded.uncertainty.entropy
    # The sample that was undecided longest, and the token in it that was.
    image = int(entropy.flatten(2).mean(2).mean(0).argmax())
    site = divmod(int(entropy[:, image].mean(0).argmax()), entropy.shape[-1])
    label = run.labels(count)[image : image + 1]
    tops = top_codes(_posterior(run, label), recorded, image, site, TOP)
    means = {name: getattr(recorded.uncertainty, name).flatten(1).mean(1) for name in MEASURES}
    shown = evenly_spaced(len(recorded.times), FRAMES)
    rows = [[f"{recorded.times[n]:.2f}", *(float(means[name][n]) for name in MEASURES)] for n in shown]
    half_decided_at = recorded.half_decided_at()
    return Section(
        "Uncertainty over the path",
        [
            f"{count} samples with the run's settings (τ {run.settings.temperature}, "
            f"{run.settings.solver}, {run.settings.num_inference_steps} steps), means over their tokens. "
            f"A uniform posterior has {np.log(len(run.codebook)):.2f} nats.",
            table(["t", *MEASURES.values()], rows),
            f"Half of the tokens keep their most probable code from t = {half_decided_at:.2f}. The film strip "
            f"shows the sample that stayed undecided longest, and its token that did so, in row {site[0]}, column "
            f"{site[1]}.",
        ],
        {"times": recorded.times, **means, "half_settled_at": half_decided_at, "token": site, "top_codes": tops},
        {
            "uncertainty-over-t.png": _curves(recorded, means),
            "uncertainty-maps.png": _maps(recorded, images),
            "film.png": _film(run, recorded, image, shown),
            "token.png": _token(run, recorded, image, site, tops, final[image]),
        },
    )


def _posterior(run: LoadedRun, labels: Tensor) -> LogPosterior:
    """The posterior with the run's temperature schedule, truncation and guidance."""

    def log_posterior(z: Tensor, t: float) -> Tensor:
        return network_posterior(run.network, labels, run.settings.options_at(t))(z, t)

    return log_posterior


def _curves(recorded: Trajectory, means: dict[str, Tensor]) -> Figure:
    figure, made = panels(4, width=3.4, height=2.9)
    for panel, (name, title) in zip(made, MEASURES.items(), strict=True):
        every = getattr(recorded.uncertainty, name).flatten(1).cpu()
        low, high = (torch.quantile(every.double(), share, dim=1) for share in (0.1, 0.9))
        panel.fill_between(recorded.times, low, high, alpha=0.2, linewidth=0, label="tokens, 10–90 %")
        panel.plot(recorded.times, means[name].cpu(), label="mean")
        panel.set(xlabel="t", title=title)
    made[0].legend(fontsize=8)
    return figure


def _maps(recorded: Trajectory, images: np.ndarray) -> Figure:
    """Finished samples, and below each its uncertainty, averaged over the evaluations."""
    count = min(8, len(images))
    figure, made = panels(count, 1 + len(MEASURES), width=1.25, height=1.3)
    for column in range(count):
        show_image(made[column], images[column])
    made[0].set_ylabel("sample", fontsize=8)
    for row, (name, title) in enumerate(MEASURES.items(), start=1):
        values = getattr(recorded.uncertainty, name).double().mean(0)
        largest = float(values[:count].max())
        line = made[row * count : (row + 1) * count]
        for column, panel in enumerate(line):
            drawn = show_map(panel, values[column], largest, images[column])
        line[0].set_ylabel(title.replace(" ", "\n", 1), fontsize=7)
        figure.colorbar(drawn, ax=line, shrink=0.85, aspect=12).ax.tick_params(labelsize=7)
    return figure


def _film(run: LoadedRun, recorded: Trajectory, image: int, shown: list[int]) -> Figure:
    """From noise to image: the state and the mean, decoded, and the entropy of each token."""
    figure, made = panels(len(shown), 3, width=1.15, height=1.25)
    entropy = recorded.uncertainty.entropy[:, image]
    for row, states in enumerate((recorded.states, recorded.means)):
        codes = nearest_codes(states[shown, image], run.codebook)
        for column, decoded in enumerate(run.tokenizer.decode_images(codes)):
            title = f"t = {recorded.times[shown[column]]:.2f}" if row == 0 else ""
            show_image(made[row * len(shown) + column], decoded, title)
    line = made[2 * len(shown) :]
    for column, panel in enumerate(line):
        drawn = show_map(panel, entropy[shown[column]], float(entropy.max()))
    for panel, title in zip(made[:: len(shown)], ("state", "mean", "entropy, nats"), strict=True):
        panel.set_ylabel(title, fontsize=8)
    figure.colorbar(drawn, ax=line, shrink=0.85, aspect=12).ax.tick_params(labelsize=7)
    return figure


def _token(
    run: LoadedRun, recorded: Trajectory, image: int, site: tuple[int, int], tops: TopCodes, final: Tensor
) -> Figure:
    """The most probable codes of one token over time, each decoded in its place in the finished image."""
    frames = evenly_spaced(len(recorded.times), 6)
    figure, made = panels(len(frames), 1 + TOP, width=1.35, height=1.3)
    for column, frame in enumerate(frames):
        made[column].set_title(f"t = {recorded.times[frame]:.2f}", fontsize=8)
        show_map(
            made[column], recorded.uncertainty.entropy[frame, image], float(recorded.uncertainty.entropy.max())
        )
        images = decode_in_place(run.tokenizer.decode_images, final, site, tops.codes[frame])
        for rank in range(TOP):
            panel = made[(1 + rank) * len(frames) + column]
            if rank < len(images):
                code, chance = int(tops.codes[frame, rank]), float(tops.probabilities[frame, rank])
                show_image(panel, images[rank], f"{code}: {chance:.0%}")
                _frame(panel, images[rank].shape[0], recorded.uncertainty.entropy.shape[-1], site)
            else:
                hide_axes(panel)
    made[0].set_ylabel("entropy", fontsize=8)
    return figure


def _frame(panel: object, side: int, sites: int, site: tuple[int, int]) -> None:
    """Draw a square around the pixels of a token."""
    from matplotlib.patches import Rectangle

    size = side / sites
    corner = (site[1] * size - 0.5, site[0] * size - 0.5)
    panel.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="tab:orange", linewidth=1.2))  # type: ignore[attr-defined]
