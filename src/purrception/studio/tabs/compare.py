"""The tab *Compare*: two runs, or two settings, from the same noise."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from purrception.generation.outputs import PurrceptionOutput
from purrception.studio.controls import (
    SamplingControls,
    StopButton,
    count_slider,
    errors_on_page,
    gallery,
    read_seed,
    seed_field,
    session_of,
    settings_group,
    whole_number,
)
from purrception.studio.session import Studio, check_size, display
from purrception.utils.errors import InputError

MAX_COMPARED = 16


class CompareTab:
    """Two columns with the same seed."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        runs = studio.runs()
        choices = [(Path(run).resolve().name, run) for run in runs]
        with settings_group():
            number = count_slider("compare", "Images each", 8, MAX_COMPARED)
            seed = seed_field("compare")
        self._controls: list[SamplingControls] = []
        menus, galleries, costs = [], [], []
        with gr.Row(equal_height=False):
            for name in ("A", "B"):
                with gr.Column(min_width=320):
                    menus.append(
                        gr.Dropdown(choices, value=runs[0], label=f"Run {name}", elem_id=f"compare-run-{name}")
                    )
                    settings = studio.defaults
                    if name == "B" and studio.class_names:  # so that the first comparison shows a difference
                        settings = replace(settings, guidance_scale=settings.guidance_scale + 1)
                    self._controls.append(SamplingControls(settings, bool(studio.class_names), f"compare-{name}"))
        with gr.Row(elem_classes="actions"):
            go = gr.Button("Compare", variant="primary", elem_id="compare-go")
            stop = StopButton(studio, "compare")
        with gr.Row(equal_height=False):
            for name in ("A", "B"):
                with gr.Column(min_width=320):
                    costs.append(gr.Markdown(f"*{name}: no images yet.*"))
                    galleries.append(gallery(f"compare-gallery-{name}"))
        agreement = gr.Markdown(elem_id="compare-verdict")
        stop.job(
            go.click,
            self._compare,
            inputs=[number, seed, *menus, *self._controls[0].components, *self._controls[1].components],
            outputs=[*galleries, *costs, agreement],
            show_progress_on=galleries,
            scroll_to_output=True,
        )
        stop.connect()

    @errors_on_page
    def _compare(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        number, seed, first, second, *rest = values
        half = len(rest) // 2
        settings = [self._controls[0].read(rest[:half]), self._controls[1].read(rest[half:])]
        count, seed = whole_number("the number of images", number, MAX_COMPARED), read_seed(seed)
        for run, own in zip((first, second), settings, strict=True):
            if run not in self._studio.runs():
                raise InputError(f"{run} is not a run in the same folder: choose one from the menu")
            check_size(count, own)
        outputs, costs = [], []
        with self._studio.work(session_of(request), progress, parts=2) as watch:
            for run, own in zip((first, second), settings, strict=True):
                pipeline = self._studio.pipeline_of(run)
                labels = pipeline.resolve_labels(None, count)
                began = time.monotonic()
                outputs.append(pipeline.sample(labels, own, seed, watch=watch))
                seconds = (time.monotonic() - began) / count
                costs.append(f"**{outputs[-1].nfe}** evaluations · **{seconds * 1000:.0f} ms** per image")
        galleries = [[display(image, 128) for image in output.images] for output in outputs]
        return *galleries, *costs, _agreement(*outputs)


def _agreement(a: PurrceptionOutput, b: PurrceptionOutput) -> str:
    if a.indices.shape != b.indices.shape:
        return "The two have grids of different shapes, so their tokens cannot be compared."
    equal = a.indices == b.indices
    images = int(equal.flatten(1).all(1).sum())
    return (
        f"From the same noise, **{float(equal.float().mean()):.1%}** of the tokens agree, and **{images}** of "
        f"{len(equal)} whole images."
    )
