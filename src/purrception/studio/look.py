"""The second tab: the way of one image, and what else each of its tokens could have been."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from purrception.studio.controls import (
    ON_MODEL,
    SamplingControls,
    class_menu,
    connect_stop,
    seed_of,
    session_of,
    shows_errors,
)
from purrception.studio.session import Studio
from purrception.studio.trajectory import Alternative, Trajectory, alternatives, curves, record

HINT = "*Move through time; click a token to see what else it could be.*"


class LookTab:
    """A slider over time, the data prediction of that moment, and a token's likeliest codes."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        way = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                with gr.Row():
                    menu = class_menu(studio, "Class", "look-class")
                    seed = gr.Number(0, precision=0, minimum=0, label="Seed", elem_id="look-seed")
                defaults = replace(
                    studio.defaults, num_inference_steps=min(studio.defaults.num_inference_steps, 25)
                )
                self._controls = SamplingControls(defaults, bool(studio.class_names), "look")
                with gr.Row():
                    go = gr.Button("Look inside", variant="primary", elem_id="look-go")
                    stop = gr.Button("Stop", variant="stop", elem_id="look-stop")
                curve = gr.HTML(elem_id="look-curves")
            with gr.Column(scale=6, min_width=320):
                moment = gr.Slider(
                    0, 1, 0, step=1, precision=0, label="Moment", visible=False, elem_id="look-time"
                )
                overlay = gr.Checkbox(
                    False,
                    label="Show uncertainty: the brighter, the less certain",
                    visible=False,
                    elem_id="look-overlay",
                )
                when = gr.Markdown(
                    "*Nothing here yet: press Look inside to follow one image from noise to data.*",
                    elem_id="look-when",
                )
                picture = gr.Image(
                    show_label=False,
                    format="png",
                    interactive=False,
                    buttons=[],
                    visible=False,
                    elem_id="look-picture",
                    elem_classes="pixels",
                )
                token = gr.Markdown(elem_id="look-token")
                others = gr.HTML(elem_id="look-others")
        shown = [picture, when, curve]
        run = go.click(
            self._record,
            [menu, seed, *self._controls.components],
            [way, moment, overlay, *shown, token, others],
            **ON_MODEL,
            show_progress_on=[when],
            api_visibility="private",
        )
        for control in (moment, overlay):
            control.change(
                self._show,
                [way, moment, overlay],
                shown,
                queue=False,
                show_progress="hidden",
                trigger_mode="always_last",
                api_visibility="private",
            )
        token_chosen = picture.select(
            self._others,
            [way, moment],
            [token, others],
            **ON_MODEL,
            show_progress_on=[token],
            api_visibility="private",
        )
        connect_stop(stop, studio, [run, token_chosen])

    @shows_errors
    def _record(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        menu, seed, *rest = values
        label = self._studio.pipeline.label_or_null(menu if menu in self._studio.class_names else None)
        settings = self._controls.read(tuple(rest))
        way = record(
            self._studio, label, settings, seed_of(seed), session_of(request), lambda share: progress(share)
        )
        last = len(way.moments) - 1
        return (
            way,
            gr.Slider(0, last, last, visible=True),
            gr.Checkbox(visible=True),
            *self._show(way, last, False),
            HINT,
            "",
        )

    def _show(self, way: Trajectory | None, number: float, overlay: bool) -> Any:
        if way is None:
            return gr.skip(), gr.skip(), gr.skip()
        number = min(int(number), len(way.moments) - 1)
        moment = way.moments[number]
        mean = None if moment.entropy is None else float(moment.entropy.mean())
        entropy = "" if mean is None else f" · mean entropy **{mean:.2f}** nats"
        when = f"t = **{moment.t:.3f}** · evaluation {number + 1} of {len(way.moments)}{entropy}"
        return gr.Image(way.picture(number, overlay), visible=True), when, curves(way, number)

    @shows_errors
    def _others(
        self,
        way: Trajectory | None,
        number: float,
        event: gr.SelectData,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        if way is None:
            return gr.skip(), gr.skip()
        row, column = self._site(way, event.index)
        found = alternatives(
            self._studio, way, int(number), (row, column), session_of(request), lambda share: progress(share)
        )
        moment = way.moments[int(number)]
        told_of = (
            f"**Token in row {row + 1}, column {column + 1}**, at t = {moment.t:.3f}: its likeliest codes, and "
            "the image each leads to when it is forced from this moment on."
        )
        return told_of, _cards(found)

    def _site(self, way: Trajectory, pixel: Any) -> tuple[int, int]:
        """The token at a pixel (x, y) of the large picture."""
        height, width = self._studio.pipeline.transformer.grid
        picture = way.picture(0, overlay=False)
        column = min(int(pixel[0] * width / picture.width), width - 1)
        row = min(int(pixel[1] * height / picture.height), height - 1)
        return row, column


def _cards(found: Sequence[Alternative]) -> str:
    """A card for each code: the image it leads to, its number and its probability."""
    cards = []
    for one in found:
        file = io.BytesIO()
        one.image.save(file, "PNG")
        source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        cards.append(
            f"<figure><img src='{source}' alt='with code {one.code}'><figcaption><span>code {one.code}</span>"
            f"<b>{one.probability:.1%}</b></figcaption>"
            f"<div class='bar' style='width:{one.probability:.1%}'></div></figure>"
        )
    return f"<div class='cards'>{''.join(cards)}</div>"
