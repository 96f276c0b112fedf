"""The fourth tab: two runs, or two settings, on the same noise."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from purrception.flow import SamplingConfig
from purrception.generation.outputs import PurrceptionOutput
from purrception.studio.controls import (
    ON_MODEL,
    SamplingControls,
    check_number,
    connect_stop,
    seed_of,
    session_of,
    shows_errors,
)
from purrception.studio.session import Studio, check_size, display
from purrception.utils.errors import InputError


class CompareTab:
    """Two columns, one seed."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        runs = studio.neighbours()
        choices = [(Path(run).resolve().name, run) for run in runs]
        with gr.Row():
            number = gr.Slider(1, 16, 8, step=1, precision=0, label="Images each", elem_id="compare-number")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed", elem_id="compare-seed")
        self._sides: list[SamplingControls] = []
        menus, galleries, costs = [], [], []
        with gr.Row(equal_height=False):
            for name in ("A", "B"):
                with gr.Column(min_width=320):
                    menus.append(
                        gr.Dropdown(choices, value=runs[0], label=f"Run {name}", elem_id=f"compare-run-{name}")
                    )
                    settings = studio.defaults
                    if name == "B" and studio.class_names:  # so that there is something to see at once
                        settings = replace(settings, guidance_scale=settings.guidance_scale + 1)
                    self._sides.append(SamplingControls(settings, bool(studio.class_names), f"compare-{name}"))
        with gr.Row():
            go = gr.Button("Compare", variant="primary", elem_id="compare-go")
            stop = gr.Button("Stop", variant="stop", elem_id="compare-stop")
        with gr.Row(equal_height=False):
            for name in ("A", "B"):
                with gr.Column(min_width=320):
                    costs.append(gr.Markdown(f"*{name}: nothing made yet.*"))
                    galleries.append(
                        gr.Gallery(
                            show_label=False,
                            columns=4,
                            height="auto",
                            object_fit="contain",
                            format="png",
                            elem_id=f"compare-gallery-{name}",
                            elem_classes="pixels",
                            buttons=[],
                            interactive=False,
                        )
                    )
        verdict = gr.Markdown(elem_id="compare-verdict")
        inputs = [number, seed, *menus, *self._sides[0].components, *self._sides[1].components]
        run = go.click(
            self._compare,
            inputs,
            [*galleries, *costs, verdict],
            **ON_MODEL,
            show_progress_on=galleries,
            api_visibility="private",
        )
        connect_stop(stop, studio, [run])

    @shows_errors
    def _compare(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        number, seed, first, second, *rest = values
        half = len(rest) // 2
        sides = [self._sides[0].read(tuple(rest[:half])), self._sides[1].read(tuple(rest[half:]))]
        count, seed = check_number("the number of images", number, 16), seed_of(seed)
        made, costs = [], []
        with self._studio.work(session_of(request), lambda share: progress(share), parts=2) as watch:
            for run, settings in zip((first, second), sides, strict=True):
                began = time.monotonic()
                made.append(self._sample(run, settings, count, seed, watch))
                each = (time.monotonic() - began) / count
                costs.append(f"**{made[-1].nfe}** evaluations · **{each * 1000:.0f} ms** an image")
        galleries = [[display(image, 128) for image in out.images] for out in made]
        return *galleries, *costs, _verdict(*made)

    def _sample(self, run: str, settings: SamplingConfig, count: int, seed: int, watch: Any) -> PurrceptionOutput:
        if run not in self._studio.neighbours():
            raise InputError(f"{run} is no run beside this one: choose one from the menu")
        check_size(count, settings)
        pipeline = self._studio.pipeline_of(run)
        with torch.no_grad():
            return pipeline.sample(pipeline.resolve_labels(None, count), settings, seed, watch=watch)


def _verdict(a: PurrceptionOutput, b: PurrceptionOutput) -> str:
    if a.indices.shape != b.indices.shape:
        return "The two have other grids, so their tokens cannot be compared."
    same = float((a.indices == b.indices).float().mean())
    whole = int((a.indices == b.indices).flatten(1).all(1).sum())
    count = len(a.indices)
    return f"From the same noise, **{same:.1%}** of the tokens agree, and **{whole}** of {count} whole images."
