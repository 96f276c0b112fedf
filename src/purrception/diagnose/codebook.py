"""Part 3: which codes the samples use."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purrception.data import spread_rows
from purrception.diagnose.loaded_run import LoadedRun
from purrception.diagnose.plotting import comma_separated
from purrception.instruments.codebook_use import CodebookUse, histogram, jensen_shannon
from purrception.storage.report import Section
from purrception.tokenizers.quality import perplexity
from purrception.utils.text import table
from purrception.utils.visualisation import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTED = 12


def codebook_section(run: LoadedRun) -> Section:
    """Codebook use of data and samples: codes generated never or too often, and the classes that differ most."""
    codes = len(run.codebook)
    samples, labels = run.samples.indices, run.labels(run.num).cpu()
    train = run.training_rows[0].cpu()
    data, sampled = histogram(train, codes), histogram(samples, codes)
    of_data, of_samples = data / data.sum(), sampled / sampled.sum()
    use = CodebookUse.of(data, sampled)
    # Perplexity and the number of codes grow with the number of images, so equal numbers are compared.
    rows = torch.from_numpy(spread_rows(len(train), len(samples)))
    as_many = histogram(train[rows], codes)
    by_chance = float(((1 - of_data) ** samples.numel())[data > 0].sum())
    classes = _by_class(run, samples, labels)
    floor: float | None = None
    unseen_classes: dict[str, float] = {}
    if run.held_out is not None:
        grids, own = (part.cpu() for part in run.rows(run.held_out, run.num))
        counts = histogram(grids, codes)
        floor = jensen_shannon(of_data, counts / counts.sum())
        unseen_classes = _by_class(run, grids, own)
    over = [int(code) for code in use.over[:LISTED] if use.ratio[code] > 1.5]
    never_listed = comma_separated(use.never[:LISTED].tolist())
    over_listed = comma_separated([f"{code} ({float(use.ratio[code]):.1f}×)" for code in over])
    text = [
        f"{len(samples)} samples compared with {len(train)} training images, of {codes} codes.",
        table(
            ["", f"{len(rows)} training images", f"{len(samples)} samples"],
            [
                ["codes that occur", int((as_many > 0).sum()), use.sample_codes],
                ["perplexity", perplexity(as_many), use.sample_perplexity],
            ],
        ),
        f"Jensen–Shannon divergence of the histograms of samples and training images: {use.divergence:.4f} nats"
        + ("" if floor is None else f"; of held-out and training images: {floor:.4f}")
        + ".",
        f"Codes of the training images that are never generated: {len(use.never)}, where {by_chance:.1f} "
        f"would be missing by chance; the most frequent of them: {never_listed}. More "
        f"than 1.5 times too often: {over_listed}.",
    ]
    if classes:
        worst = sorted(classes, key=lambda name: unseen_classes.get(name, 0.0) - classes[name])[:3]
        text.append(
            "Classes whose samples differ most from the data (held-out images in brackets): "
            + comma_separated(
                [f"{name} {classes[name]:.3f} nats ({unseen_classes.get(name, nan):.3f})" for name in worst]
            )
            + "."
        )
    found = {
        "data_codes": int((as_many > 0).sum()),
        "data_perplexity": perplexity(as_many),
        "sample_codes": use.sample_codes,
        "sample_perplexity": use.sample_perplexity,
        "divergence": use.divergence,
        "divergence_of_held_out": floor,
        "never": use.never,
        "never_by_chance": by_chance,
        "over": {code: float(use.ratio[code]) for code in over},
        "divergence_by_class": classes,
        "divergence_by_class_of_held_out": unseen_classes,
    }
    drawn = _draw(of_data, of_samples, use, classes, unseen_classes)
    return Section("Codebook use", text, found, {"codebook.png": drawn})


def _by_class(run: LoadedRun, grids: Tensor, labels: Tensor) -> dict[str, float]:
    """Divergence of each class's histogram from that of its training images, for samples or other images."""
    train, train_labels = (part.cpu() for part in run.training_rows)
    codes, found = len(run.codebook), {}
    for label, name in enumerate(run.pipeline.class_names):
        own = [histogram(some[of == label], codes) for some, of in ((train, train_labels), (grids, labels))]
        if all(float(counts.sum()) > 0 for counts in own):
            found[name] = jensen_shannon(own[0] / own[0].sum(), own[1] / own[1].sum())
    return found


def _draw(
    data: Tensor, samples: Tensor, use: CodebookUse, classes: dict[str, float], unseen: dict[str, float]
) -> Figure:
    figure, made = panels(3 if classes else 2, width=4.2)
    order = data.argsort(descending=True)
    made[0].plot(data[order].numpy(), label="data", linewidth=1.4)
    made[0].scatter(range(len(order)), samples[order].numpy(), s=5, alpha=0.6, color="C1", label="samples")
    made[0].set(
        xlabel="codes, the most frequent in the data first", ylabel="share of tokens", title="use of each code"
    )
    made[0].legend(fontsize=8)
    ratios = use.ratio[(data + samples) > 0].log2()
    made[1].hist(ratios.numpy(), bins=40, color="C2")
    made[1].axvline(0, color="grey", linestyle=":")
    made[1].set(
        xlabel="log₂ of share in samples over share in data", ylabel="codes", title="too rare, too frequent"
    )
    if classes:
        for shift, (values, label) in enumerate(((classes, "samples"), (unseen, "held-out images"))):
            places = [place + 0.4 * shift - 0.2 for place in range(len(values))]
            made[2].bar(places, list(values.values()), width=0.38, color=("C1", "C7")[shift], label=label)
        made[2].set_xticks(range(len(classes)), list(classes))
        made[2].set(xlabel="class", ylabel="nats", title="divergence from training images, by class")
        made[2].legend(fontsize=8)
        if len(classes) > 12:
            made[2].set_xticks([])
    return figure
