"""The tab *Look inside*: one image from noise to data, and what else each of its tokens could have been."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from purrception.studio.controls import (
    MODEL_JOB,
    QUICK,
    SamplingControls,
    class_menu,
    connect_stop,
    errors_on_page,
    read_seed,
    seed_field,
    session_of,
)
from purrception.studio.session import Studio
from purrception.studio.trajectory import (
    Alternative,
    Trajectory,
    entropy_curves,
    likeliest_alternatives,
    record_trajectory,
)

HINT = "*Move through time; click a token to see what else it could be.*"


class LookInsideTab:
    """A slider over time, the data prediction at that moment, and the likeliest codes of a token."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        trajectory = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                with gr.Row():
                    menu = class_menu(studio, "Class", "look")
                    seed = seed_field("look")
                steps = min(studio.defaults.num_inference_steps, 25)
                defaults = replace(studio.defaults, num_inference_steps=steps)
                self._controls = SamplingControls(defaults, bool(studio.class_names), "look")
                with gr.Row():
                    go = gr.Button("Look inside", variant="primary", elem_id="look-go")
                    stop = gr.Button("Stop", variant="stop", elem_id="look-stop")
                curves = gr.HTML(elem_id="look-curves")
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
                caption = gr.Markdown(
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
                alternatives = gr.HTML(elem_id="look-others")
        views = [picture, caption, curves]
        run = go.click(
            self._record,
            [menu, seed, *self._controls.components],
            [trajectory, moment, overlay, *views, token, alternatives],
            show_progress_on=[caption],
            **MODEL_JOB,
        )
        for control in (moment, overlay):
            control.change(
                self._show,
                [trajectory, moment, overlay],
                views,
                show_progress="hidden",
                trigger_mode="always_last",
                **QUICK,
            )
        selection = picture.select(
            self._alternatives,
            [trajectory, moment],
            [token, alternatives],
            show_progress_on=[token],
            **MODEL_JOB,
        )
        connect_stop(stop, studio, [run, selection])

    @errors_on_page
    def _record(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        class_name, seed, *settings = values
        label = self._studio.pipeline.label_or_null(class_name if class_name in self._studio.class_names else None)
        trajectory = record_trajectory(
            self._studio, label, self._controls.read(settings), read_seed(seed), session_of(request), progress
        )
        last = len(trajectory.moments) - 1
        return (
            trajectory,
            gr.Slider(0, last, last, visible=True),
            gr.Checkbox(visible=True),
            *self._show(trajectory, last, False),
            HINT,
            "",
        )

    def _show(self, trajectory: Trajectory | None, number: float, overlay: bool) -> Any:
        if trajectory is None:
            return gr.skip(), gr.skip(), gr.skip()
        number = min(int(number), len(trajectory.moments) - 1)
        moment = trajectory.moments[number]
        entropy = "" if moment.entropy is None else f" · mean entropy **{float(moment.entropy.mean()):.2f}** nats"
        caption = f"t = **{moment.t:.3f}** · evaluation {number + 1} of {len(trajectory.moments)}{entropy}"
        picture = gr.Image(trajectory.picture(number, overlay), visible=True)
        return picture, caption, entropy_curves(trajectory, number)

    @errors_on_page
    def _alternatives(
        self,
        trajectory: Trajectory | None,
        number: float,
        event: gr.SelectData,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        if trajectory is None:
            return gr.skip(), gr.skip()
        row, column = self._site(trajectory, event.index)
        alternatives = likeliest_alternatives(
            self._studio, trajectory, int(number), (row, column), session_of(request), progress
        )
        t = trajectory.moments[int(number)].t
        caption = (
            f"**Token in row {row + 1}, column {column + 1}**, at t = {t:.3f}: its likeliest codes, and the "
            "image that each leads to when it is forced from this moment on."
        )
        return caption, _cards(alternatives)

    def _site(self, trajectory: Trajectory, pixel: Any) -> tuple[int, int]:
        """The token at a pixel (x, y) of the large picture."""
        height, width = self._studio.pipeline.transformer.grid
        picture = trajectory.picture(0, overlay=False)
        column = min(int(pixel[0] * width / picture.width), width - 1)
        row = min(int(pixel[1] * height / picture.height), height - 1)
        return row, column


def _cards(alternatives: Sequence[Alternative]) -> str:
    """A card for each code: the image that it leads to, its number and its probability."""
    cards = []
    for one in alternatives:
        file = io.BytesIO()
        one.image.save(file, "PNG")
        source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        cards.append(
            f"<figure><img src='{source}' alt='with code {one.code}'><figcaption><span>code {one.code}</span>"
            f"<b>{one.probability:.1%}</b></figcaption>"
            f"<div class='bar' style='width:{one.probability:.1%}'></div></figure>"
        )
    return f"<div class='cards'>{''.join(cards)}</div>"
