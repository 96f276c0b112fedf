"""The tab *Look inside*: one image from noise to data, and what else each of its tokens could have been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from purrception.studio.controls import (
    QUICK,
    SamplingControls,
    StopButton,
    class_menu,
    errors_on_page,
    read_seed,
    seed_field,
    session_of,
    settings_group,
)
from purrception.studio.pictures import colour_scale, embedded
from purrception.studio.session import Studio
from purrception.studio.trajectory import (
    Alternative,
    Trajectory,
    entropy_curves,
    likeliest_alternatives,
    record_trajectory,
)
from purrception.utils.errors import InputError

HINT = "*Move through time; click a token, or type its row and column, to see what else it could be.*"


class LookInsideTab:
    """A slider over time, the data prediction at that moment, and the likeliest codes of a token."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        trajectory = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                with settings_group():
                    menu = class_menu(studio, "look")
                    seed = seed_field("look")
                steps = min(studio.defaults.num_inference_steps, 25)
                defaults = replace(studio.defaults, num_inference_steps=steps)
                self._controls = SamplingControls(defaults, bool(studio.class_names), "look")
                with gr.Row(elem_classes="actions"):
                    go = gr.Button("Look inside", variant="primary", elem_id="look-go")
                    stop = StopButton(studio, "look")
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
                    alt_text="the data prediction at this moment",
                    elem_id="look-picture",
                    elem_classes="images",
                )
                scale = gr.HTML(visible=False, elem_id="look-scale")
                with gr.Row(visible=False) as place:
                    row = gr.Number(None, precision=0, minimum=1, label="Row of a token", elem_id="look-row")
                    column = gr.Number(None, precision=0, minimum=1, label="Column", elem_id="look-column")
                token = gr.Markdown(elem_id="look-token")
                alternatives = gr.HTML(elem_id="look-others")
        views = [picture, scale, caption, curves]
        stop.job(
            go.click,
            self._record,
            inputs=[menu, seed, *self._controls.components],
            outputs=[trajectory, moment, overlay, place, row, column, *views, token, alternatives],
            show_progress_on=[caption],
            scroll_to_output=True,
        )
        selected = picture.select(self._site, trajectory, [row, column], show_progress="hidden", **QUICK)
        # Not .change, which also fires when _record shows these for the first time, with the values from before.
        for asked in (moment.input, overlay.input, row.input, column.input, selected.then):
            asked(
                self._show,
                [trajectory, moment, overlay, row, column],
                views,
                show_progress="hidden",
                trigger_mode="always_last",
                **QUICK,
            )
        for trigger in (selected.then, row.submit, column.submit):
            stop.job(
                trigger,
                self._alternatives,
                inputs=[trajectory, moment, row, column],
                outputs=[token, alternatives],
                show_progress_on=[token],
            )
        stop.connect()

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
            gr.Checkbox(False, visible=True),
            gr.Row(visible=True),
            None,
            None,
            *self._show(trajectory, last, False, None, None),
            HINT,
            "",
        )

    def _show(
        self, trajectory: Trajectory | None, number: float, overlay: bool, row: float | None, column: float | None
    ) -> Any:
        if trajectory is None:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        number = min(int(number), len(trajectory.moments) - 1)
        moment = trajectory.moments[number]
        entropy = "" if moment.entropy is None else f" · mean entropy **{float(moment.entropy.mean()):.2f}** nats"
        caption = f"t = **{moment.t:.3f}** · evaluation {number + 1} of {len(trajectory.moments)}{entropy}"
        picture = gr.Image(trajectory.picture(number, overlay, self._token(row, column)), visible=True)
        shows_map = overlay and moment.entropy is not None
        scale = gr.HTML(colour_scale(trajectory.brightest) if shows_map else "", visible=shows_map)
        return picture, scale, caption, entropy_curves(trajectory, number)

    @errors_on_page
    def _alternatives(
        self,
        trajectory: Trajectory | None,
        number: float,
        row: float | None,
        column: float | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        if trajectory is None:
            return gr.skip(), gr.skip()
        site = self._token(row, column)
        if site is None:
            height, width = self._studio.pipeline.transformer.grid
            raise InputError(f"a token is in row 1 to {height} and column 1 to {width}; given {row} and {column}")
        alternatives = likeliest_alternatives(
            self._studio, trajectory, int(number), site, session_of(request), progress
        )
        t = trajectory.moments[int(number)].t
        caption = (
            f"**Token in row {site[0] + 1}, column {site[1] + 1}**, at t = {t:.3f}: its likeliest codes, and the "
            "image that each leads to when it is forced from this moment on."
        )
        return caption, _cards(alternatives)

    def _token(self, row: float | None, column: float | None) -> tuple[int, int] | None:
        """The site of a token, from 0, or ``None`` where the fields for its row and column name none."""
        height, width = self._studio.pipeline.transformer.grid
        if row is None or column is None or not (1 <= row <= height and 1 <= column <= width):
            return None
        return int(row) - 1, int(column) - 1

    def _site(self, trajectory: Trajectory, event: gr.SelectData) -> tuple[int, int]:
        """Row and column, from 1, of the token at the clicked pixel (x, y) of the large picture."""
        height, width = trajectory.grid
        picture = trajectory.picture(0, overlay=False)
        column = min(int(event.index[0] * width / picture.width), width - 1)
        row = min(int(event.index[1] * height / picture.height), height - 1)
        return row + 1, column + 1


def _cards(alternatives: Sequence[Alternative]) -> str:
    """A card for each code: the image that it leads to, its number and its probability."""
    cards = []
    for one in alternatives:
        cards.append(
            f"<figure><img src='{embedded(one.image)}' alt='with code {one.code}'>"
            f"<figcaption><span>code {one.code}</span><b>{one.probability:.1%}</b></figcaption>"
            f"<div class='bar' style='width:{one.probability:.1%}'></div></figure>"
        )
    return f"<div class='cards'>{''.join(cards)}</div>"
