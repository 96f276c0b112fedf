"""Part 3: which codes the samples are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purrception.diagnose.plotting import panels, per_line
from purrception.diagnose.report import Section, table
from purrception.diagnose.subject import Subject
from purrception.diagnostics.codebook_use import CodebookUse, histogram, jensen_shannon

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTED = 12


def codebook_section(subject: Subject) -> Section:
    """Use and perplexity of data and samples, what is never or too often generated, and in which classes."""
    codes = len(subject.codebook)
    samples, labels = subject.samples.indices, subject.labels(subject.num).cpu()
    # As many training images as samples, since perplexity and divergence depend on their number.
    train, train_labels = (part.cpu() for part in subject.training_rows)
    chosen = torch.linspace(0, len(train) - 1, min(len(samples), len(train))).long()
    data, sampled = histogram(train[chosen], codes), histogram(samples, codes)
    use = CodebookUse.of(data, sampled)
    floor = _floor(subject, histogram(train, codes))
    classes = _by_class(subject, samples, labels, train, train_labels)
    rows = [
        ["codes that occur", use.data_codes, use.sample_codes],
        ["perplexity", use.data_perplexity, use.sample_perplexity],
    ]
    names = subject.pipeline.class_names
    worst = sorted(classes, key=lambda label: -classes[label])[:3]
    over = [int(code) for code in use.over[:LISTED] if use.ratio[code] > 1.5]
    text = [
        f"{len(samples)} samples beside as many training images, of {codes} codes.",
        table(["", "data", "samples"], rows),
        f"Jensen–Shannon divergence of the two histograms: {use.divergence:.4f} nats"
        + ("" if floor is None else f" (held-out images against all training images: {floor:.4f})")
        + ".",
        f"In these training images but never generated: {len(use.never)} codes, the commonest "
        f"{per_line(use.never[:LISTED].tolist())}. "
        f"More than 1.5 times too often: "
        f"{per_line([f'{code} ({float(use.ratio[code]):.1f}×)' for code in over])}.",
    ]
    if classes:
        text.append(
            "The classes where samples and data differ most: "
            + per_line([f"{names[label]} ({classes[label]:.3f} nats)" for label in worst])
            + "."
        )
    data_out = {
        "use": {"data_codes": use.data_codes, "data_perplexity": use.data_perplexity,
                "sample_codes": use.sample_codes, "sample_perplexity": use.sample_perplexity,
                "divergence": use.divergence, "divergence_of_held_out": floor},
        "never": use.never, "over": {str(code): float(use.ratio[code]) for code in over},
        "divergence_by_class": {names[label]: value for label, value in classes.items()},
    }  # fmt: skip
    drawn = _draw(data / data.sum(), sampled / sampled.sum(), use, {names[k]: v for k, v in classes.items()})
    return Section("Codebook use", text, data_out, {"codebook.png": drawn})


def _floor(subject: Subject, data: Tensor) -> float | None:
    if subject.held_out is None:
        return None
    held_out = histogram(subject.rows(subject.held_out, subject.num)[0].cpu(), len(subject.codebook))
    return jensen_shannon(data / data.sum(), held_out / held_out.sum())


def _by_class(
    subject: Subject, samples: Tensor, labels: Tensor, train: Tensor, train_labels: Tensor
) -> dict[int, float]:
    """Divergence of the histograms of one class."""
    codes, found = len(subject.codebook), {}
    for label in range(subject.classes):
        own = [histogram(grids[of == label], codes) for grids, of in ((train, train_labels), (samples, labels))]
        if all(float(counts.sum()) > 0 for counts in own):
            found[label] = jensen_shannon(own[0] / own[0].sum(), own[1] / own[1].sum())
    return found


def _draw(data: Tensor, samples: Tensor, use: CodebookUse, classes: dict[str, float]) -> Figure:
    figure, made = panels(3 if classes else 2, width=4.2)
    order = data.argsort(descending=True)
    made[0].plot(data[order].numpy(), label="data", linewidth=1.4)
    made[0].scatter(range(len(order)), samples[order].numpy(), s=5, alpha=0.6, color="C1", label="samples")
    made[0].set(
        xlabel="codes, the commonest in the data first", ylabel="share of tokens", title="use of each code"
    )
    made[0].legend(fontsize=8)
    ratios = use.ratio[(data + samples) > 0].log2()
    made[1].hist(ratios.numpy(), bins=40, color="C2")
    made[1].axvline(0, color="grey", linestyle=":")
    made[1].set(xlabel="log₂ of share in samples over share in data", ylabel="codes", title="too rare, too common")
    if classes:
        made[2].bar(list(classes), list(classes.values()), color="C3")
        made[2].set(xlabel="class", ylabel="nats", title="divergence of data and samples, by class")
        if len(classes) > 12:
            made[2].set_xticks([])
    return figure
