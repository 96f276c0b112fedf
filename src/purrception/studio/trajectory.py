"""One image from noise to codes: the model's prediction at each moment, and the alternatives for each token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from purrception.data import array_to_pil
from purrception.flow import KnownCodes, Prediction, SamplingConfig
from purrception.generation.sampler import KeyedDraws
from purrception.studio.session import OnProgress, Studio, display
from purrception.utils.errors import InputError
from purrception.utils.visualisation import heat_map

ALTERNATIVES, LEAST_LIKELY = 6, 0.0005
"""Largest number of alternatives for a token, and the smallest probability of one, which is shown as 0.1 %."""
MAX_MOMENTS = 100
LARGE = 384


@dataclass(frozen=True)
class Moment:
    """One evaluation of the network."""

    t: float
    state: Tensor
    """The state that the network was evaluated at, ``[1, …, h, w]``."""
    image: Image.Image
    """The data prediction, decoded without quantisation."""
    entropy: np.ndarray | None
    """Entropy of each token in nats, ``[h, w]``; ``None`` without a posterior."""


@dataclass(frozen=True)
class Trajectory:
    """All evaluations of one image, in the order of time."""

    label: int
    settings: SamplingConfig
    seed: int
    moments: tuple[Moment, ...]
    indices: Tensor
    """The final codes, long ``[1, h, w]``."""
    image: Image.Image

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), the shape of the grid of tokens."""
        height, width = self.indices.shape[-2:]
        return height, width

    @property
    def brightest(self) -> float:
        """The largest entropy of any token at any moment, nats."""
        return max(
            (float(moment.entropy.max()) for moment in self.moments if moment.entropy is not None), default=0
        )

    def picture(self, number: int, overlay: bool, marked: tuple[int, int] | None = None) -> Image.Image:
        """The image at a moment, enlarged.

        Args:
            number: of the moment.
            overlay: draw the uncertainty of each token over the image.
            marked: row and column of a token that gets a frame.
        """
        moment = self.moments[number]
        image = display(moment.image, LARGE)
        if overlay and moment.entropy is not None:
            image = Image.blend(image, heat_map(moment.entropy, self.brightest, image.size).convert("RGB"), 0.6)
        if marked is not None:
            height, width = (side // sites for side, sites in zip(image.size[::-1], self.grid, strict=True))
            top, left = marked[0] * height, marked[1] * width
            draw = ImageDraw.Draw(image)
            for inset, colour in enumerate(("black", "white", "white", "black")):  # seen on any background
                corner = (left + width - 1 - inset, top + height - 1 - inset)
                draw.rectangle(((left + inset, top + inset), corner), outline=colour)
        return image


@dataclass(frozen=True)
class Alternative:
    """A code that a token could take, and the image that it leads to."""

    code: int
    probability: float
    image: Image.Image


def record_trajectory(
    studio: Studio, label: int, settings: SamplingConfig, seed: int, session: str, on_progress: OnProgress
) -> Trajectory:
    """Sample image 0 of ``seed`` and keep every evaluation.

    Raises:
        InputError: more than :data:`MAX_MOMENTS` steps.
    """
    if settings.num_inference_steps > MAX_MOMENTS:
        raise InputError(
            f"at most {MAX_MOMENTS} steps are kept to look inside; given {settings.num_inference_steps}"
        )
    evaluations: list[tuple[float, Tensor, Tensor, np.ndarray | None]] = []
    pipeline = studio.pipeline
    with studio.work(session, on_progress) as watch:

        def keep(t: float, z: Tensor, prediction: Prediction) -> None:
            watch(t, z, prediction)
            posterior = prediction.posterior
            entropy = None if posterior is None else posterior.entropy[0].cpu().numpy()
            evaluations.append((t, z, prediction.mean, entropy))

        output = pipeline.sample([label], settings, seed, watch=keep)
        images = pipeline.decode_means(torch.cat([mean for _, _, mean, _ in evaluations]))
    moments = [Moment(t, z, image, entropy) for (t, z, _, entropy), image in zip(evaluations, images, strict=True)]
    in_order = tuple(sorted(moments, key=lambda moment: moment.t))  # a solver may evaluate within a step
    return Trajectory(label, settings, seed, in_order, output.indices, output.images[0])


@torch.no_grad()
def likeliest_alternatives(
    studio: Studio,
    trajectory: Trajectory,
    number: int,
    site: tuple[int, int],
    session: str,
    on_progress: OnProgress,
) -> list[Alternative]:
    """The likeliest codes of a token at a moment, and the image that each leads to when it is forced from then on.

    Raises:
        InputError: the model has no posterior.
    """
    pipeline, moment = studio.pipeline, trajectory.moments[number]
    network, objective = pipeline.transformer, pipeline.objective
    if moment.entropy is None:
        raise InputError(
            "this model has no posterior, and so no probabilities of codes: open a purrception or dfm run"
        )
    row, column = site
    with studio.work(session, on_progress) as watch:
        labels = torch.tensor([trajectory.label], device=network.device)
        options = replace(trajectory.settings.options_at(moment.t), top=ALTERNATIVES)
        posterior = objective.predict(network, moment.state, moment.t, labels, options).posterior
        assert posterior is not None
        assert posterior.top is not None
        codes, probabilities = posterior.top.codes[0, row, column], posterior.top.probabilities[0, row, column]
        count = max(1, int((probabilities >= LEAST_LIKELY).sum()))  # the likeliest is first
        codes, probabilities = codes[:count], probabilities[:count]
        free = torch.ones(len(codes), *network.grid, dtype=torch.bool, device=network.device)
        free[:, row, column] = False
        indices = trajectory.indices.to(network.device).repeat(len(codes), 1, 1)
        indices[:, row, column] = codes
        known = KnownCodes(indices, free, since=moment.t)
        draws = KeyedDraws(trajectory.seed, [0] * len(codes), network)
        generation = objective.generate(
            network, labels.expand(len(codes)), draws, trajectory.settings, known, watch
        )
    images = [array_to_pil(array) for array in pipeline.tokenizer.decode_images(generation.indices)]
    return [
        Alternative(code, probability, image)
        for code, probability, image in zip(codes.tolist(), probabilities.tolist(), images, strict=True)
    ]


def entropy_curves(trajectory: Trajectory, number: int) -> str:
    """The mean and the largest entropy of the tokens over time, as an SVG in the colours of the page."""
    entropies = [(moment.t, moment.entropy) for moment in trajectory.moments if moment.entropy is not None]
    if not entropies:
        return "<p class='quiet'>This model has no posterior, and so no uncertainty.</p>"
    top = max(trajectory.brightest, 1e-9)

    def path(values: list[float]) -> str:
        points = [
            f"{40 + 540 * t:.1f},{170 - 150 * v / top:.1f}" for (t, _), v in zip(entropies, values, strict=True)
        ]
        return "M" + " L".join(points)

    mean = path([float(entropy.mean()) for _, entropy in entropies])
    largest = path([float(entropy.max()) for _, entropy in entropies])
    now = 40 + 540 * trajectory.moments[number].t
    return f"""<svg class="curves" viewBox="0 0 600 205" role="img" aria-label="entropy over time">
<path d="M40,20 V170 H580" class="axis"/>
<text x="34" y="25" text-anchor="end">{top:.2g}</text><text x="34" y="174" text-anchor="end">0</text>
<text x="40" y="190" text-anchor="middle">0</text><text x="580" y="190" text-anchor="middle">1</text>
<text x="310" y="200" text-anchor="middle">time: noise → data</text>
<line x1="{now:.1f}" x2="{now:.1f}" y1="20" y2="170" class="here"/>
<path d="{largest}" class="largest"/><path d="{mean}" class="mean"/>
<text x="575" y="32" text-anchor="end" class="largest-name">least certain token</text>
<text x="575" y="50" text-anchor="end" class="mean-name">mean of all tokens</text>
</svg><p class="quiet">Entropy of the posterior, nats.</p>"""
