"""What the page asks of the model: one piece of work at a time, watched, and stopped on request."""

from __future__ import annotations

import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from purrception.data import array_to_pil
from purrception.experiment.saved_run import load_pipeline, sampling_defaults
from purrception.flow import Prediction, SamplingConfig, Watcher
from purrception.generation.outputs import PurrceptionOutput
from purrception.generation.pipeline import PurrceptionPipeline
from purrception.generation.saving import sample_command, save_outputs
from purrception.storage import whole_file
from purrception.studio.files import Uploads
from purrception.tokens import TokenDataset
from purrception.training import RunDirectory, is_pipeline
from purrception.utils.errors import InputError

MOST_IMAGES, MOST_STEPS = 64, 1000
THUMBNAILS = 100
"""Classes that are shown with a picture; beyond, names alone."""
KEPT = 32
"""Downloads and edited pictures kept in the run's folder; the oldest go."""

Report = Callable[[float], None]
"""Told the share of the work that is done."""


class StoppedError(Exception):
    """Somebody asked for it."""


@dataclass(frozen=True)
class Generated:
    """Images, what they took, and how to make them again."""

    out: PurrceptionOutput
    settings: SamplingConfig
    seed: int
    seconds: float
    command: str
    download: Path


class Studio:
    """The models of one run and of its neighbours, for everybody who has the page open.

    Args:
        target: a run or a pipeline folder.
        device: where its networks work.
    """

    def __init__(self, target: str, device: torch.device) -> None:
        self.target, self.device = target, device
        self._pipelines: dict[str, PurrceptionPipeline] = {}
        self._loading, self._working = threading.Lock(), threading.Lock()
        self._numbering, self._noting = threading.Lock(), threading.Lock()
        self._stops: dict[str, set[threading.Event]] = {}
        self.pipeline = self.pipeline_of(target)
        self.defaults = sampling_defaults(target)
        self.folder = RunDirectory(target).studio
        self.uploads = Uploads(self.folder / "uploads")

    def pipeline_of(self, target: str) -> PurrceptionPipeline:
        """The pipeline of a run, loaded once."""
        with self._loading:
            if target not in self._pipelines:
                self._pipelines[target] = load_pipeline(target).to(self.device)
            return self._pipelines[target]

    @property
    def name(self) -> str:
        """What people call the run."""
        path = Path(self.target).resolve()
        return path.parent.name if path == RunDirectory(path.parent).pipeline else path.name

    @property
    def class_names(self) -> list[str]:
        """Names by label; empty when unconditional."""
        return self.pipeline.class_names

    def neighbours(self) -> list[str]:
        """Runs and pipelines beside this one, itself first."""
        beside = sorted(Path(self.target).resolve().parent.iterdir())
        found = [
            str(path)
            for path in beside
            if path != Path(self.target).resolve() and (RunDirectory(path).pipeline.is_dir() or is_pipeline(path))
        ]
        return [self.target, *found]

    def thumbnails(self) -> list[tuple[Image.Image, str]]:
        """A training image of each class as the tokenizer shows it, with its name."""
        names = self.class_names[:THUMBNAILS]
        if not names:
            return []
        shown = self._first_of_each_class(len(names))
        return list(zip((display(image, 64) for image in shown), names, strict=True))

    def _first_of_each_class(self, count: int) -> list[Image.Image]:
        tokens = RunDirectory(self.target).tokens / "train"
        if not (tokens / "manifest.json").is_file():  # a pipeline without its run: draw them
            return self.pipeline.sample(range(count), replace(self.defaults, num_inference_steps=8)).images
        data = TokenDataset(tokens)
        indices, labels = data.rows(np.arange(min(len(data), 50 * count)))
        rows = [int(np.argmax(labels == label)) for label in range(count)]
        codes = torch.from_numpy(indices[rows].astype(np.int64))
        return [array_to_pil(array) for array in self.pipeline.tokenizer.decode_images(codes)]

    def stop(self, session: str) -> None:
        """Stop all that a visitor has under way, or waiting behind others' work."""
        with self._noting:
            for event in self._stops.get(session, ()):
                event.set()

    def stop_all(self) -> None:
        """Stop what everybody has under way."""
        for session in tuple(self._stops):
            self.stop(session)

    def leave(self, session: str) -> None:
        """A visitor has closed the page."""
        self.stop(session)
        self.uploads.leave(session)

    @contextmanager
    def work(self, session: str, report: Report, parts: int = 1) -> Iterator[Watcher]:
        """One piece of work at a time; yields what is to watch it.

        Args:
            session: whose it is.
            report: told the share that is done.
            parts: how often time goes from 0 to 1 in it.

        Raises:
            StoppedError: within, at the next evaluation after :meth:`stop`, or at once if it came before the turn.
        """
        event = threading.Event()
        with self._noting:
            self._stops.setdefault(session, set()).add(event)
        done, latest = 0, -1.0

        def watch(t: float, z: Tensor, prediction: Prediction) -> None:
            nonlocal done, latest
            if event.is_set():
                raise StoppedError
            done += t < latest
            latest = t
            report(min((done + t) / parts, 1.0))

        try:
            with self._working:
                if event.is_set():
                    raise StoppedError
                yield watch
        finally:
            with self._noting:
                self._stops[session].discard(event)
                if not self._stops[session]:
                    del self._stops[session]

    def generate(
        self, labels: list[int], settings: SamplingConfig, seed: int, session: str, report: Report
    ) -> Generated:
        """Images, and a download of them with their manifest."""
        check_size(len(labels), settings)
        began = time.monotonic()
        with self.work(session, report) as watch, torch.no_grad():
            out = self.pipeline.sample(labels, settings, seed, MOST_IMAGES, watch)
        return self.finish(out, settings, seed, began)

    def finish(
        self, out: PurrceptionOutput, settings: SamplingConfig, seed: int, began: float, command: str = ""
    ) -> Generated:
        """Write a download: a zip of the images and the manifest that says how to make them again."""
        seconds = time.monotonic() - began
        command = command or sample_command(self.pipeline, self.target, out.labels, settings, seed)
        folder = self.next_folder("downloads")
        archive = folder.with_suffix(".zip")
        try:
            save_outputs(self.pipeline, out, settings, seed, self.target, folder, command)
            with whole_file(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as packed:
                for file in sorted(folder.rglob("*")):
                    packed.write(file, file.relative_to(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return Generated(out, settings, seed, seconds, command, archive)

    def next_folder(self, kind: str) -> Path:
        """A new folder for one visitor's files, made; the oldest beyond 32 go."""
        parent = self.folder / kind
        with self._numbering:
            parent.mkdir(parents=True, exist_ok=True)
            stems = sorted({int(path.stem) for path in parent.iterdir() if path.stem.isdecimal()})
            for old in stems[: max(0, len(stems) - KEPT + 1)]:
                shutil.rmtree(parent / f"{old:03d}", ignore_errors=True)
                (parent / f"{old:03d}.zip").unlink(missing_ok=True)
            folder = parent / f"{max(stems, default=-1) + 1:03d}"
            folder.mkdir()
        return folder


def check_size(images: int, settings: SamplingConfig) -> None:
    """Refuse what would keep everybody waiting.

    Raises:
        InputError: more images or steps than the page makes at once.
    """
    if not 1 <= images <= MOST_IMAGES or settings.num_inference_steps > MOST_STEPS:
        raise InputError(
            f"the studio makes 1 to {MOST_IMAGES} images in at most {MOST_STEPS} steps at once; given {images} "
            f"and {settings.num_inference_steps}: for more, use purrception sample"
        )


def display(image: Image.Image, side: int = 192) -> Image.Image:
    """A small image enlarged pixel by pixel, so that a browser does not blur it; in mode RGB."""
    factor = max(1, side // max(image.size))
    size = (image.width * factor, image.height * factor)
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST)
