"""The work that the page asks of the model: one job at a time, with its progress, stopped on request."""

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
from purrception.studio.upload_folder import UploadFolder
from purrception.tokens import ShuffledOrder, TokenDataset
from purrception.training import RunDirectory, is_pipeline
from purrception.utils.errors import InputError

MAX_IMAGES, MAX_STEPS = 64, 1000
THUMBNAILS = 100
"""Largest number of classes that are shown with a picture; further ones are only in the menu."""
MAX_KEPT = 32
"""Number of downloads, and of edits, kept in the run's folder; the oldest are removed."""

SEARCHED = 100_000
"""Largest number of training images among which one of each class is looked for."""

OnProgress = Callable[[float], object]
"""Called with the share of the work that is done."""


class StoppedError(Exception):
    """The visitor has stopped the job."""


@dataclass(frozen=True)
class GeneratedImages:
    """Images, their cost, and how to make them again."""

    output: PurrceptionOutput
    settings: SamplingConfig
    seed: int
    seconds: float
    command: str
    download: Path


def row_of_each_class(data: TokenDataset, count: int) -> dict[int, int]:
    """The number of a row of each of the first ``count`` classes, by label; those without one are left out.

    Rows are drawn, since images often lie in the order of their classes.
    """
    order, found, block = ShuffledOrder(len(data), seed=0), dict[int, int](), 1024
    for start in range(0, min(len(data), SEARCHED), block):
        rows = order.rows(start, min(block, len(data) - start))
        for label, row in zip(data.rows(rows)[1].tolist(), rows.tolist(), strict=True):
            if label < count:
                found.setdefault(label, row)
        if len(found) == count:
            break
    return found


class Studio:
    """The models of one run, and of the other runs in its folder, for everybody who has the page open.

    Args:
        target: a run or a pipeline folder.
        device: the device of the networks.
    """

    def __init__(self, target: str, device: torch.device) -> None:
        self.target, self.device = target, device
        self._pipelines: dict[str, PurrceptionPipeline] = {}
        self._loading_lock, self._model_lock = threading.Lock(), threading.Lock()
        self._folder_lock, self._stops_lock = threading.Lock(), threading.Lock()
        self._stops: dict[str, set[threading.Event]] = {}
        self.pipeline = self.pipeline_of(target)
        self.class_names = self.pipeline.class_names
        self.defaults = sampling_defaults(target)
        self.folder = RunDirectory(target).studio
        self.uploads = UploadFolder(self.folder / "uploads")

    def pipeline_of(self, target: str) -> PurrceptionPipeline:
        """The pipeline of a run, loaded once."""
        with self._loading_lock:
            if target not in self._pipelines:
                pipeline = load_pipeline(target).to(self.device)
                pipeline.set_progress_bar_config(disable=True)  # the page shows it
                # The first evaluation takes longer, and is not to be in the times that are shown.
                pipeline.sample([0], replace(sampling_defaults(target), num_inference_steps=1))
                self._pipelines[target] = pipeline
            return self._pipelines[target]

    @property
    def name(self) -> str:
        """The name of the run."""
        path = Path(self.target).resolve()
        return path.parent.name if path == RunDirectory(path.parent).pipeline else path.name

    def runs(self) -> list[str]:
        """This run and the other runs and pipelines in the same folder."""
        own = Path(self.target).resolve()
        others = (path for path in sorted(own.parent.iterdir()) if path != own)
        return [self.target, *(str(p) for p in others if RunDirectory(p).pipeline.is_dir() or is_pipeline(p))]

    def thumbnails(self) -> list[tuple[Image.Image, str]]:
        """A training image of each class, as the tokenizer reconstructs it, with the name of the class.

        A generated one stands in where there is none: in a pipeline without its run, for a class without images.
        """
        names = self.class_names[:THUMBNAILS]
        tokens = RunDirectory(self.target).tokens / "train"
        images: dict[int, Image.Image] = {}
        if (tokens / "manifest.json").is_file():
            data = TokenDataset(tokens)
            rows = row_of_each_class(data, len(names))
            if rows:
                codes = torch.from_numpy(data.rows(np.array([*rows.values()]))[0])
                decoded = self.pipeline.tokenizer.decode_images(codes)
                images = dict(zip(rows, map(array_to_pil, decoded), strict=True))
        if missing := [label for label in range(len(names)) if label not in images]:
            made = self.pipeline.sample(missing, replace(self.defaults, num_inference_steps=8)).images
            images |= dict(zip(missing, made, strict=True))
        return [(display(images[label], 64), name) for label, name in enumerate(names)]

    def stop(self, session: str) -> None:
        """Stop all running and waiting jobs of a session."""
        with self._stops_lock:
            for event in self._stops.get(session, ()):
                event.set()

    def stop_all(self) -> None:
        """Stop all jobs of all sessions."""
        for session in tuple(self._stops):
            self.stop(session)

    def leave(self, session: str) -> None:
        """Stop the jobs of a session whose page was closed, and remove its uploads."""
        self.stop(session)
        self.uploads.remove_session(session)

    @contextmanager
    def work(self, session: str, on_progress: OnProgress, parts: int = 1) -> Iterator[Watcher]:
        """Wait for the model and hold it for one job; yields the function that is to watch its evaluations.

        Args:
            session: the session of the job.
            on_progress: called at every evaluation.
            parts: number of times that t goes from 0 to 1 in the job.

        Raises:
            StoppedError: at the next evaluation after :meth:`stop`, or at once if the job was still waiting.
        """
        event = threading.Event()
        with self._stops_lock:
            self._stops.setdefault(session, set()).add(event)
        done, latest = 0, -1.0

        def watch(t: float, z: Tensor, prediction: Prediction) -> None:
            nonlocal done, latest
            if event.is_set():
                raise StoppedError
            done += t < latest
            latest = t
            on_progress(min((done + t) / parts, 1.0))

        try:
            with self._model_lock:
                if event.is_set():
                    raise StoppedError
                yield watch
        finally:
            with self._stops_lock:
                self._stops[session].discard(event)
                if not self._stops[session]:
                    del self._stops[session]

    def generate(
        self, labels: list[int], settings: SamplingConfig, seed: int, session: str, on_progress: OnProgress
    ) -> GeneratedImages:
        """Generate images, and a download of them with their manifest."""
        check_size(len(labels), settings)
        with self.work(session, on_progress) as watch:
            began = time.monotonic()
            output = self.pipeline.sample(labels, settings, seed, MAX_IMAGES, watch)
            seconds = time.monotonic() - began
        command = sample_command(self.pipeline, self.target, labels, settings, seed, self.defaults)
        return self.finish(output, settings, seed, seconds, command)

    def finish(
        self, output: PurrceptionOutput, settings: SamplingConfig, seed: int, seconds: float, command: str
    ) -> GeneratedImages:
        """Write the download: a zip of the images and of the manifest, which says how to make them again."""
        folder = self.next_folder("downloads")
        archive = folder.with_suffix(".zip")
        try:
            save_outputs(self.pipeline, output, settings, seed, self.target, folder, command)
            with whole_file(archive) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as packed:
                for file in sorted(folder.rglob("*")):
                    packed.write(file, file.relative_to(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return GeneratedImages(output, settings, seed, seconds, command, archive)

    def next_folder(self, kind: str) -> Path:
        """Make a new folder for files of this kind, and remove the oldest beyond :data:`MAX_KEPT`."""
        parent = self.folder / kind
        with self._folder_lock:
            parent.mkdir(parents=True, exist_ok=True)
            stems = sorted({int(path.stem) for path in parent.iterdir() if path.stem.isdecimal()})
            for old in stems[: max(0, len(stems) - MAX_KEPT + 1)]:
                shutil.rmtree(parent / f"{old:03d}", ignore_errors=True)
                (parent / f"{old:03d}.zip").unlink(missing_ok=True)
            folder = parent / f"{max(stems, default=-1) + 1:03d}"
            folder.mkdir()
        return folder


def check_size(images: int, settings: SamplingConfig) -> None:
    """Refuse a job that would keep all others waiting.

    Raises:
        InputError: more images or steps than the page makes in one job.
    """
    if not 1 <= images <= MAX_IMAGES or settings.num_inference_steps > MAX_STEPS:
        raise InputError(
            f"the studio makes 1 to {MAX_IMAGES} images in at most {MAX_STEPS} steps at once; given {images} "
            f"and {settings.num_inference_steps}: for more, use purrception sample"
        )


def display(image: Image.Image, side: int = 192) -> Image.Image:
    """Enlarge a small image pixel by pixel, so that a browser does not blur it; in mode RGB."""
    factor = max(1, side // max(image.size))
    size = (image.width * factor, image.height * factor)
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST)
