"""Part 1: what the posterior holds possible, in maps and films."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from purrception.diagnose.plotting import bare, show_image, show_map, spread
from purrception.diagnose.subject import Subject
from purrception.flow import PredictionOptions, TopCodes
from purrception.flow.nearest import nearest_codes
from purrception.instruments.posteriors import LogPosterior, network_posterior
from purrception.instruments.uncertainty import (
    Trajectory,
    decode_in_place,
    record_trajectory,
    top_codes,
)
from purrception.storage.report import Section
from purrception.utils.markdown import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES, FRAMES, TOP = 16, 10, 5
FIGURES = {
    "entropy": "entropy, nats",
    "effective_codes": "effective number of codes",
    "margin": "margin of the first code",
    "distance": "expected distance to the mean",
}


def uncertainty_section(subject: Subject) -> Section:
    """Maps over images, a film of one sample, the likeliest codes of one token."""
    count = min(IMAGES, subject.num)
    recorded = record_trajectory(
        _posterior(subject, subject.labels(count)),
        subject.codebook,
        subject.noise(count),
        subject.settings.build_solver(lambda step: subject.noise(count, step=step + 1)),
        subject.settings.build_timesteps(),
    )
    final = nearest_codes(recorded.end, subject.codebook)
    images = subject.tokenizer.decode_images(final)
    entropy = recorded.uncertainty.entropy
    # The token that was undecided for longest, of the image whose film is shown.
    star = int(entropy.flatten(2).mean(2).mean(0).argmax())
    site = divmod(int(entropy[:, star].mean(0).argmax()), entropy.shape[-1])
    label = subject.labels(count)[star : star + 1]
    tops = top_codes(_posterior(subject, label), recorded, star, site, TOP)
    means = {name: getattr(recorded.uncertainty, name).flatten(1).mean(1) for name in FIGURES}
    shown = spread(len(recorded.times), FRAMES)
    rows = [[f"{recorded.times[n]:.2f}", *(float(means[name][n]) for name in FIGURES)] for n in shown]
    settled = _settled(recorded)
    return Section(
        "Uncertainty over the path",
        [
            f"{count} samples, as the run samples (τ {subject.settings.temperature}, "
            f"{subject.settings.solver}, {subject.settings.num_inference_steps} steps), means over their tokens. "
            f"A posterior that knows nothing has {np.log(len(subject.codebook)):.2f} nats.",
            table(["t", *FIGURES.values()], rows),
            f"Half of the tokens have taken their last most probable code by t = {settled:.2f}. The film is "
            f"of the sample that stayed undecided longest, and the token in it, row {site[0]}, column "
            f"{site[1]}, likewise.",
        ],
        {"times": recorded.times, **means, "half_settled_at": settled, "token": site, "top_codes": tops},
        {
            "uncertainty-over-t.png": _curves(recorded, means),
            "uncertainty-maps.png": _maps(recorded, images),
            "film.png": _film(subject, recorded, star, shown),
            "token.png": _token(subject, recorded, star, site, tops, final[star]),
        },
    )


def _posterior(subject: Subject, labels: Tensor) -> LogPosterior:
    """As the run samples: temperature over t, truncation and guidance included."""
    settings = subject.settings
    schedule = settings.build_temperature()

    def log_posterior(z: Tensor, t: float) -> Tensor:
        options = PredictionOptions(schedule(t), settings.build_truncation(), settings.build_guidance())
        return network_posterior(subject.network, labels, options)(z, t)

    return log_posterior


def _settled(recorded: Trajectory) -> float:
    """The time from which half of the tokens keep the code that they end with."""
    codes = recorded.uncertainty.codes
    same = (codes == codes[-1]).flip(0).long().cumprod(0).sum(0)  # evaluations at the end without a change
    first = len(codes) - same.flatten()
    return recorded.times[int(first.double().median())]


def _curves(recorded: Trajectory, means: dict[str, Tensor]) -> Figure:
    figure, made = panels(4, width=3.4, height=2.9)
    for panel, (name, title) in zip(made, FIGURES.items(), strict=True):
        every = getattr(recorded.uncertainty, name).flatten(1).cpu()
        low, high = (torch.quantile(every.double(), share, dim=1) for share in (0.1, 0.9))
        panel.fill_between(recorded.times, low, high, alpha=0.2, linewidth=0, label="tokens, 10–90 %")
        panel.plot(recorded.times, means[name].cpu(), label="mean")
        panel.set(xlabel="t", title=title)
    made[0].legend(fontsize=8)
    return figure


def _maps(recorded: Trajectory, images: np.ndarray) -> Figure:
    """Finished samples, and under each what was uncertain about it, averaged over the path."""
    count = min(8, len(images))
    figure, made = panels(count, 1 + len(FIGURES), width=1.25, height=1.3)
    for column in range(count):
        show_image(made[column], images[column])
    made[0].set_ylabel("sample", fontsize=8)
    for row, (name, title) in enumerate(FIGURES.items(), start=1):
        values = getattr(recorded.uncertainty, name).double().mean(0)
        largest = float(values[:count].max())
        line = made[row * count : (row + 1) * count]
        for column, panel in enumerate(line):
            drawn = show_map(panel, values[column], largest, images[column])
        line[0].set_ylabel(title.replace(" ", "\n", 1), fontsize=7)
        figure.colorbar(drawn, ax=line, shrink=0.85, aspect=12).ax.tick_params(labelsize=7)
    return figure


def _film(subject: Subject, recorded: Trajectory, star: int, shown: list[int]) -> Figure:
    """From noise to image: the state, what the mean decodes to, and the entropy of each token."""
    figure, made = panels(len(shown), 3, width=1.15, height=1.25)
    entropy = recorded.uncertainty.entropy[:, star]
    for row, states in enumerate((recorded.states, recorded.means)):
        codes = nearest_codes(states[shown, star], subject.codebook)
        for column, image in enumerate(subject.tokenizer.decode_images(codes)):
            title = f"t = {recorded.times[shown[column]]:.2f}" if row == 0 else ""
            show_image(made[row * len(shown) + column], image, title)
    line = made[2 * len(shown) :]
    for column, panel in enumerate(line):
        drawn = show_map(panel, entropy[shown[column]], float(entropy.max()))
    for panel, title in zip(made[:: len(shown)], ("state", "mean", "entropy, nats"), strict=True):
        panel.set_ylabel(title, fontsize=8)
    figure.colorbar(drawn, ax=line, shrink=0.85, aspect=12).ax.tick_params(labelsize=7)
    return figure


def _token(
    subject: Subject, recorded: Trajectory, star: int, site: tuple[int, int], tops: TopCodes, final: Tensor
) -> Figure:
    """The likeliest codes of one token over time, decoded in their place in the finished image."""
    frames = spread(len(recorded.times), 6)
    figure, made = panels(len(frames), 1 + TOP, width=1.35, height=1.3)
    for column, frame in enumerate(frames):
        made[column].set_title(f"t = {recorded.times[frame]:.2f}", fontsize=8)
        show_map(
            made[column], recorded.uncertainty.entropy[frame, star], float(recorded.uncertainty.entropy.max())
        )
        images = decode_in_place(subject.tokenizer.decode_images, final, site, tops.codes[frame])
        for rank in range(TOP):
            panel = made[(1 + rank) * len(frames) + column]
            if rank < len(images):
                code, chance = int(tops.codes[frame, rank]), float(tops.probabilities[frame, rank])
                show_image(panel, images[rank], f"{code}: {chance:.0%}")
                _frame(panel, images[rank].shape[0], recorded.uncertainty.entropy.shape[-1], site)
            else:
                bare(panel)
    made[0].set_ylabel("entropy", fontsize=8)
    return figure


def _frame(panel: object, side: int, sites: int, site: tuple[int, int]) -> None:
    """A square around the token's own pixels."""
    from matplotlib.patches import Rectangle

    size = side / sites
    corner = (site[1] * size - 0.5, site[0] * size - 0.5)
    panel.add_patch(Rectangle(corner, size, size, fill=False, edgecolor="tab:orange", linewidth=1.2))  # type: ignore[attr-defined]
