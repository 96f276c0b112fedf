"""The results of a benchmark, as Markdown and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from purrception.bench.config import BenchConfig
from purrception.bench.workloads import WORKLOADS
from purrception.storage import write_file, writing
from purrception.utils.text import table

COLUMNS = (
    ("ms", "seconds", ".0f", 1e-3),
    ("images/s", "images_per_second", ".2f", 1),
    ("codes/s", "codes_per_second", ".0f", 1),
    ("× the reference", "times_the_reference", ".2f", 1),
    ("× ours", "times_ours", ".2f", 1),
    ("GFLOP/s", "flops_per_second", ".0f", 1e9),
    ("MFU", "utilisation", ".1%", 1),
    ("peak MB", "bytes", ".0f", 2**20),
    ("MB an image", "bytes_per_image", ".1f", 2**20),
    ("× the reference's memory", "memory_of_the_reference", ".2f", 1),
    ("MB beyond the weights", "bytes_beyond_weights", ".1f", 2**20),
)
"""(title, field of :class:`Row`, format, unit) of each column of the table."""


@dataclass(frozen=True)
class Row:
    """The measurements of one variant of a workload."""

    part: str
    """Name of the workload."""
    variant: str
    setting: int | str | None
    """Value of the setting that is varied, if one is."""
    seconds: float
    """Median of a step."""
    images_per_second: float
    codes_per_second: float
    times_the_reference: float | None
    """Its seconds over the reference's: the median of the ratios of each round."""
    times_ours: float | None
    """Its seconds over those of the first variant, in the same way."""
    flops_per_second: float | None
    """Model operations, for training and sampling steps: what the mathematics needs, without recomputation."""
    utilisation: float | None
    """Share of the GPU's peak speed."""
    bytes: float | None
    """Peak memory of a step, weights and optimiser included."""
    bytes_per_image: float | None
    """Memory of one more image in the batch."""
    memory_of_the_reference: float | None
    """Memory of one more image over the reference's."""
    bytes_beyond_weights: float | None
    """For the head alone: peak memory without its weights, their gradients and the codebook."""

    def cells(self) -> list[str]:
        """The row as in ``COLUMNS``, with a dash for each missing value."""
        values = [(getattr(self, name), form, unit) for _, name, form, unit in COLUMNS]
        return ["–" if value is None else format(value / unit, form) for value, form, unit in values]


@dataclass(frozen=True)
class Growth:
    """How a variant's cost grows with the setting that is varied: exponents of fitted power laws."""

    part: str
    variant: str
    seconds: float
    bytes_beyond_weights: float | None


@dataclass(frozen=True)
class Report:
    """All rows, and what they were measured on."""

    config: BenchConfig
    device: str
    threads: int
    torch: str
    vary: str
    """Name of the setting that is varied; empty: none."""
    rows: tuple[Row, ...]
    growth: tuple[Growth, ...] = ()
    left_out: tuple[str, ...] = ()
    """What did not fit into the device's memory."""

    def json(self) -> str:
        """The report as JSON."""
        return json.dumps(asdict(self), indent=2)

    def markdown(self) -> str:
        """The report as Markdown; empty columns are left out."""
        config = self.config
        sizes = (
            f"DiT-{config.network}, K = {config.codebook_size}, {config.grid}×{config.grid} sites of "
            f"{config.codebook_dim} numbers, {config.head} head{' with evidence' if config.evidence else ''}, "
            f"batch {config.batch_size}, precision {config.precision}{', compiled' if config.compile else ''}"
            f"{', blocks recomputed' if config.recompute else ''}"
        )
        names = [row.variant if row.setting is None else f"{row.variant}, {row.setting}" for row in self.rows]
        columns = [
            ("work", *(WORKLOADS[row.part].title for row in self.rows)),
            ("variant", *names),
            *zip([title for title, *_ in COLUMNS], *(row.cells() for row in self.rows), strict=True),
        ]
        kept = [column for column in columns if any(cell != "–" for cell in column[1:])]
        header, *rows = zip(*kept, strict=True)
        lines = [
            "# Bench",
            "",
            f"{sizes}{f'; {self.vary} varied' if self.vary else ''}; {self.device}, {self.threads} threads, torch "
            f"{self.torch}. Medians of {config.repeats} runs, ratios round by round; the reference holds all "
            "logits of a linear head. MB an image is the memory of one more image in the batch.",
            "",
            table(header, rows),
        ]
        if self.left_out:
            lines += ["", f"Out of memory: {'; '.join(self.left_out)}."]
        for growth in self.growth:
            grown = f"seconds grow as {self.vary}^{growth.seconds:.2f}"
            if growth.bytes_beyond_weights is not None:
                grown += f", memory beyond the weights as {self.vary}^{growth.bytes_beyond_weights:.3f}"
            lines += ["", f"{WORKLOADS[growth.part].title}, {growth.variant}: {grown}."]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``report.md`` and ``report.json`` to ``folder``."""
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "report.json", self.json())
        write_file(folder / "report.md", self.markdown())
