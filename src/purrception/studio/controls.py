"""What several tabs share: the controls of sampling, and errors as one sentence on the page."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import gradio as gr
from gradio.events import Dependency

from purrception.flow import LAST_STEPS, SOLVERS, SPACES, SPACINGS, SamplingConfig
from purrception.studio.session import MOST_STEPS, Generated, StoppedError, Studio
from purrception.utils.errors import InputError
from purrception.utils.settings import field_docs

ANY_CLASS = "any class"
ON_MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
"""Work for the model: one piece at a time, in the order of asking."""
SIDE_QUEUE: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
"""Work that does not wait behind the model's; it is queued all the same, since nothing else can show a notice."""


SHOWN = ("num_inference_steps", "solver", "temperature", "guidance_scale")
"""Settings that stand open on the page; the others are behind *More*."""
RANGES: dict[str, tuple[float, float, float]] = {
    "num_inference_steps": (1, 200, 1),
    "temperature": (0.1, 1.5, 0.05),
    "guidance_scale": (0, 5, 0.1),
    "guidance_interval": (0, 1, 0.05),
    "top_p": (0.05, 1, 0.05),
    "eta": (0, 1, 0.05),
}
"""Lowest, highest and step of what has a slider."""
CHOICES: dict[str, Iterable[str]] = {
    "solver": SOLVERS,
    "timestep_spacing": SPACINGS,
    "guidance_space": SPACES,
    "last_step": LAST_STEPS,
}
HELP = field_docs(SamplingConfig)


class SamplingControls:
    """A control for every setting of :class:`SamplingConfig`.

    Args:
        defaults: what the run samples with.
        has_classes: whether there is something to guide by.
        prefix: of the elements' ids.
    """

    def __init__(self, defaults: SamplingConfig, has_classes: bool, prefix: str) -> None:
        self._defaults = defaults
        self._controls: dict[str, list[gr.components.Component]] = {}
        names = [item.name for item in fields(SamplingConfig) if has_classes or "guidance" not in item.name]
        with gr.Group():
            for name in SHOWN:
                if name in names:
                    self._controls[name] = self._control(name, getattr(defaults, name), prefix)
        with gr.Accordion("More", open=False):
            for name in names:
                if name not in SHOWN:
                    self._controls[name] = self._control(name, getattr(defaults, name), prefix)

    @property
    def components(self) -> list[gr.components.Component]:
        """The inputs whose values :meth:`read` takes."""
        return [component for control in self._controls.values() for component in control]

    def _control(self, name: str, value: Any, prefix: str) -> list[gr.components.Component]:
        option = SamplingConfig.OPTIONS.get(name, name)
        about: dict[str, Any] = {
            "label": option.replace("_", " ").capitalize(),
            "info": HELP[name],
            "elem_id": f"{prefix}-{option}",
        }
        if name == "temperature":  # a number, or a schedule in words
            schedule = value if isinstance(value, str) else ""
            low, high, step = RANGES[name]
            slider = gr.Slider(low, high, 1.0 if schedule else float(value), step=step, **about)
            text = gr.Textbox(
                schedule, label="Temperature schedule, in place of the slider", placeholder="linear:1.0:0.7"
            )
            return [slider, text]
        if name in CHOICES:
            return [gr.Dropdown(list(CHOICES[name]), value=value, **about)]
        if isinstance(value, bool):
            return [gr.Checkbox(value, **about)]
        if isinstance(value, tuple):
            low, high, step = RANGES[name]
            about["info"], ends = None, (f"{about['label']} from t =", "to t =")
            with gr.Row():
                return [
                    gr.Slider(low, high, end, step=step, label=label, info=HELP[name] if n == 0 else None)
                    for n, (end, label) in enumerate(zip(value, ends, strict=True))
                ]
        whole: dict[str, Any] = {"precision": 0} if isinstance(value, int) else {}
        if name in RANGES:
            low, high, step = RANGES[name]
            return [gr.Slider(low, high, value, step=step, **whole, **about)]
        return [gr.Number(value, minimum=0, **whole, **about)]

    def read(self, values: tuple[Any, ...]) -> SamplingConfig:
        """The components' values, in their order, as settings.

        Raises:
            InputError: a value that no sampler takes.
        """
        left = iter(values)
        settings: dict[str, Any] = {}
        for name, control in self._controls.items():
            given = [next(left) for _ in control]
            default, option = getattr(self._defaults, name), SamplingConfig.OPTIONS.get(name, name)
            if name == "temperature":
                settings[name] = str(given[1]).strip() or number(option, given[0])
            elif isinstance(default, tuple):
                settings[name] = tuple(number(option, end) for end in given)
            elif isinstance(default, str | bool):
                settings[name] = given[0]
            elif isinstance(default, int):
                largest = MOST_STEPS if name == "num_inference_steps" else 2**31
                settings[name] = check_number(option, given[0], largest)
            else:
                settings[name] = number(option, given[0])
        return replace(self._defaults, **settings)


def number(name: str, value: Any) -> float:
    """A number from a field that somebody may have emptied.

    Raises:
        InputError: it is empty.
    """
    if not isinstance(value, int | float):
        raise InputError(f"{name} is a number; given {value!r}")
    return float(value)


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


def shows_errors(function: Callable[..., Any]) -> Callable[..., Any]:
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


def connect_stop(button: gr.Button, studio: Studio, work: Sequence[Dependency]) -> None:
    """Have a button stop a visitor's work: what is under way at its next evaluation, what still waits at once.

    Args:
        button: to press.
        studio: does the work.
        work: the events that begin it; in the queue they are gradio's to take back.
    """

    def stop(request: gr.Request) -> None:
        studio.stop(session_of(request))
        gr.Info("Stopping at the next evaluation.", title="Stop")

    button.click(stop, None, None, cancels=list(work), **SIDE_QUEUE)


def session_of(request: gr.Request) -> str:
    """Whose request it is."""
    return request.session_hash or "somebody"


def cost_line(made: Generated) -> str:
    """Cost of a generation, in a line."""
    count = len(made.out.images)
    each = made.seconds / count
    time = f"{each * 1000:.0f} ms" if each < 1 else f"{each:.1f} s"
    entropy = "" if made.out.entropy is None else f" · mean entropy **{float(made.out.entropy.mean()):.2f}** nats"
    return f"**{count}** images · **{made.out.nfe}** network evaluations each · **{time}** an image{entropy}"
