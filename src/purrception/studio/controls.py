"""What several tabs share: the controls of sampling, and errors as one sentence on the page."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.events import Dependency

from purrception.flow import LAST_STEPS, SOLVERS, SPACINGS, SamplingConfig
from purrception.studio.session import MOST_STEPS, Made, StoppedError, Studio
from purrception.utils.errors import InputError

ANY_CLASS = "any class"
MODEL = "model"
"""What all work shares in the queue: one piece at a time, in the order of asking."""
BESIDE: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
"""Queued beside the model's work, not behind it: what is not queued can show no notice on the page."""


class SamplingControls:
    """Steps, solver, temperature and guidance, and behind them what is rarely changed.

    Args:
        defaults: what the run samples with.
        has_classes: whether there is something to guide by.
        prefix: of the elements' ids.
    """

    def __init__(self, defaults: SamplingConfig, has_classes: bool, prefix: str) -> None:
        self._defaults = defaults
        schedule = defaults.temperature if isinstance(defaults.temperature, str) else ""
        with gr.Row():
            steps = gr.Slider(
                1, 200, defaults.num_inference_steps, step=1, precision=0, label="Steps", elem_id=f"{prefix}-steps"
            )
            solver = gr.Dropdown(list(SOLVERS), value=defaults.solver, label="Solver")
        with gr.Row():
            temperature = gr.Slider(
                0.1,
                1.5,
                1.0 if schedule else float(defaults.temperature),
                step=0.05,
                label="Temperature",
                info="below 1 bolder, above 1 more varied",
            )
            guidance = gr.Slider(
                0,
                5,
                defaults.guidance_scale,
                step=0.1,
                label="Guidance",
                visible=has_classes,
                info="1: none; above: more of the class",
            )
        with gr.Accordion("More", open=False):
            with gr.Row():
                start = gr.Slider(0, 1, defaults.guidance_interval[0], step=0.05, label="Guidance from t")
                end = gr.Slider(0, 1, defaults.guidance_interval[1], step=0.05, label="Guidance to t")
            with gr.Row():
                grid = gr.Dropdown(list(SPACINGS), value=defaults.timestep_spacing, label="Time grid")
                last_step = gr.Dropdown(list(LAST_STEPS), value=defaults.last_step, label="Last step")
            with gr.Row():
                top_k = gr.Number(defaults.top_k, precision=0, minimum=0, label="Top-k", info="0 keeps every code")
                top_p = gr.Slider(0.05, 1, defaults.top_p, step=0.05, label="Top-p")
            schedule_box = gr.Textbox(
                schedule,
                label="Temperature schedule",
                placeholder="linear:1.0:0.7",
                info="over time, in place of the slider",
            )
        self.components: list[gr.components.Component] = [
            steps,
            solver,
            temperature,
            guidance,
            start,
            end,
            grid,
            last_step,
            top_k,
            top_p,
            schedule_box,
        ]

    def read(self, values: tuple[Any, ...]) -> SamplingConfig:
        """The components' values, in their order, as settings.

        Raises:
            InputError: a value that no sampler takes.
        """
        steps, solver, temperature, guidance, start, end, grid, last_step, top_k, top_p, schedule = values
        check_number("steps", steps, MOST_STEPS)
        return replace(
            self._defaults,
            num_inference_steps=int(steps),
            solver=solver,
            temperature=str(schedule).strip() or float(temperature),
            guidance_scale=float(guidance),
            guidance_interval=(float(start), float(end)),
            timestep_spacing=grid,
            last_step=last_step,
            top_k=int(top_k or 0),
            top_p=float(top_p),
        )


def check_number(name: str, value: Any, largest: float) -> int:
    """A whole number from a field that somebody may have emptied.

    Raises:
        InputError: it is empty, not whole, or out of its range.
    """
    if not isinstance(value, int | float) or value != int(value) or not 0 <= value <= largest:
        raise InputError(f"{name} is a whole number from 0 to {largest:.0f}; given {value!r}")
    return int(value)


def seed_of(value: Any) -> int:
    """The seed in a field."""
    return check_number("the seed", value, 2**53)


def class_menu(studio: Studio, label: str, elem_id: str, *, anything: str = ANY_CLASS) -> gr.Dropdown:
    """A menu of class names; ``anything`` stands for none in particular."""
    names = [anything, *studio.class_names]
    return gr.Dropdown(
        names, value=names[0], label=label, elem_id=elem_id, filterable=True, visible=bool(studio.class_names)
    )


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with mistakes told on the page in a sentence, and what was stopped left as it is."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            message = html.escape(str(error))  # a file may have any name
            raise gr.Error(
                message[:1].upper() + message[1:], title="Not like this", print_exception=False
            ) from error
        except StoppedError:
            gr.Info("Stopped; what was there before is still there.", title="Stopped")
            return gr.skip()

    return wrapped


def stops(button: gr.Button, studio: Studio, work: Sequence[Dependency]) -> None:
    """Have a button stop a visitor's work: what is under way at its next evaluation, what still waits at once.

    Args:
        button: to press.
        studio: does the work.
        work: the events that begin it; in the queue they are gradio's to take back.
    """

    def stop(request: gr.Request) -> None:
        studio.stop(session_of(request))
        gr.Info("Stopping at the next evaluation.", title="Stop")

    button.click(stop, None, None, cancels=list(work), **BESIDE)


def session_of(request: gr.Request) -> str:
    """Whose request it is."""
    return request.session_hash or "somebody"


def facts(made: Made) -> str:
    """Cost of a generation, in a line."""
    count = len(made.out.images)
    each = made.seconds / count
    time = f"{each * 1000:.0f} ms" if each < 1 else f"{each:.1f} s"
    entropy = "" if made.out.entropy is None else f" · mean entropy **{float(made.out.entropy.mean()):.2f}** nats"
    return f"**{count}** images · **{made.out.nfe}** network evaluations each · **{time}** an image{entropy}"
