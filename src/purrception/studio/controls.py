"""Parts that the tabs share: controls of the sampling settings, galleries, results, and errors as notices."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from purrception.flow import LAST_STEPS, SOLVERS, SPACES, SPACINGS, SamplingConfig
from purrception.studio.session import MAX_STEPS, GeneratedImages, StoppedError, Studio
from purrception.utils.errors import InputError
from purrception.utils.settings import field_docs

ANY_CLASS = "any class"
MODEL_JOB: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
"""Options of an event that uses the model: one at a time, in the order of arrival."""
SIDE_JOB: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
"""Options of an event that does not wait for the model. It is queued as well, because only queued events can show
notices."""
QUICK: dict[str, Any] = {"queue": False, "api_visibility": "private"}
"""Options of an event that is answered at once."""

OPEN_SETTINGS = ("num_inference_steps", "solver", "temperature", "guidance_scale")
"""Settings that are always visible; the others are behind *More*."""
RANGES: dict[str, tuple[float, float, float]] = {
    "num_inference_steps": (1, 200, 1),
    "temperature": (0.1, 1.5, 0.05),
    "guidance_scale": (0, 5, 0.1),
    "guidance_interval": (0, 1, 0.05),
    "top_p": (0.05, 1, 0.05),
    "eta": (0, 1, 0.05),
}
"""Lowest value, highest value and step of the settings that have a slider."""
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
        defaults: the settings to start from.
        has_classes: whether the model has classes; without them there is no guidance.
        prefix: prefix of the elements' ids.
    """

    def __init__(self, defaults: SamplingConfig, has_classes: bool, prefix: str) -> None:
        self._defaults, self._prefix = defaults, prefix
        names = [item.name for item in fields(SamplingConfig) if has_classes or "guidance" not in item.name]
        with settings_group():
            self._controls = {name: self._control(name) for name in OPEN_SETTINGS if name in names}
        with gr.Accordion("More", open=False, elem_classes="settings"):
            self._controls["temperature"].append(self._schedule())
            self._controls |= {name: self._control(name) for name in names if name not in OPEN_SETTINGS}

    @property
    def components(self) -> list[Component]:
        """The inputs whose values :meth:`read` takes."""
        return [component for control in self._controls.values() for component in control]

    def _schedule(self) -> gr.Textbox:
        """A temperature that changes over time, as text."""
        value = self._defaults.temperature
        return gr.Textbox(
            value if isinstance(value, str) else "",
            label="Temperature schedule",
            info="A schedule over t, which takes the place of the temperature above.",
            placeholder="linear:1.0:0.7",
            elem_id=f"{self._prefix}-schedule",
        )

    def _control(self, name: str) -> list[Component]:
        value, option = getattr(self._defaults, name), SamplingConfig.OPTIONS.get(name, name)
        label = option.replace("_", " ").capitalize()
        about: dict[str, Any] = {"label": label, "info": HELP[name], "elem_id": f"{self._prefix}-{option}"}
        if name == "temperature":
            return [_slider(name, 1.0 if isinstance(value, str) else float(value), **about)]
        if name in CHOICES:
            return [gr.Dropdown(list(CHOICES[name]), value=value, **about)]
        if isinstance(value, bool):
            return [gr.Checkbox(value, **about)]
        if isinstance(value, tuple):
            first, last = value
            return [
                _slider(name, first, **about | {"label": f"{label}, start"}),
                _slider(name, last, label=f"{label}, end", info="The end of the interval."),
            ]
        if isinstance(value, int):
            about["precision"] = 0
        return [_slider(name, value, **about) if name in RANGES else gr.Number(value, minimum=0, **about)]

    def read(self, values: Sequence[Any]) -> SamplingConfig:
        """The values of the components, in their order, as settings.

        Raises:
            InputError: a value is missing or not valid.
        """
        remaining = iter(values)
        settings: dict[str, Any] = {}
        for name, control in self._controls.items():
            value, *others = [next(remaining) for _ in control]
            default, option = getattr(self._defaults, name), SamplingConfig.OPTIONS.get(name, name)
            if name == "temperature":
                settings[name] = str(others[0]).strip() or number(option, value)
            elif isinstance(default, tuple):
                settings[name] = tuple(number(option, end) for end in (value, *others))
            elif isinstance(default, str | bool):
                settings[name] = value
            elif isinstance(default, int):
                largest = MAX_STEPS if name == "num_inference_steps" else 2**31
                settings[name] = whole_number(option, value, largest)
            else:
                settings[name] = number(option, value)
        return replace(self._defaults, **settings)


def _slider(name: str, value: float, **options: Any) -> gr.Slider:
    low, high, step = RANGES[name]
    return gr.Slider(low, high, value, step=step, **options)


def number(name: str, value: Any) -> float:
    """The number in a field, which may be empty.

    Raises:
        InputError: the field is empty.
    """
    if not isinstance(value, int | float):
        raise InputError(f"{name} is a number; given {value!r}")
    return float(value)


def whole_number(name: str, value: Any, largest: float) -> int:
    """The whole number in a field, which may be empty.

    Raises:
        InputError: the field is empty, or its number is not whole or out of range.
    """
    if not isinstance(value, int | float) or value != int(value) or not 0 <= value <= largest:
        raise InputError(f"{name} is a whole number from 0 to {largest:.0f}; given {value!r}")
    return int(value)


def read_seed(value: Any) -> int:
    """The seed in a field."""
    return whole_number("the seed", value, 2**53)


def settings_group(*classes: str) -> gr.Group:
    """A group of controls, aligned in columns by the style of the page; ``choice`` has three of them."""
    return gr.Group(elem_classes=["settings", *classes])


def seed_field(prefix: str) -> gr.Number:
    """A field for the seed."""
    return gr.Number(0, precision=0, minimum=0, label="Seed", elem_id=f"{prefix}-seed")


def count_slider(prefix: str, label: str, value: int, largest: int) -> gr.Slider:
    """A slider for the number of images."""
    return gr.Slider(1, largest, value, step=1, precision=0, label=label, elem_id=f"{prefix}-number")


def class_menu(studio: Studio, prefix: str, *, no_class: str = ANY_CLASS, info: str | None = None) -> gr.Dropdown:
    """A menu of the class names, and of ``no_class``."""
    return gr.Dropdown(
        [no_class, *studio.class_names],
        value=no_class,
        label="Class",
        info=info,
        elem_id=f"{prefix}-class",
        visible=bool(studio.class_names),
    )


def gallery(elem_id: str, **options: Any) -> gr.Gallery:
    """A gallery of small images, enlarged pixel by pixel."""
    common: dict[str, Any] = {
        "columns": 4,
        "buttons": [],
        "show_label": False,
        "height": "auto",
        "object_fit": "contain",
        "format": "png",
        "elem_classes": "images",
        "interactive": False,
    }
    return gr.Gallery(elem_id=elem_id, **common | options)


def result_view(
    prefix: str, hint: str, command_label: str, **options: Any
) -> tuple[gr.Gallery, gr.Markdown, gr.Code, gr.DownloadButton]:
    """A gallery with ``options``, its cost (``hint`` while it is empty), its command line and its download."""
    images = gallery(f"{prefix}-gallery", buttons=["fullscreen"], **options)
    cost = gr.Markdown(hint, elem_id=f"{prefix}-cost")
    command = gr.Code(
        language=None,  # the colours of a language are hard to read on a light page
        label=command_label,
        visible=False,
        elem_id=f"{prefix}-command",
        wrap_lines=True,
        interactive=False,
        elem_classes="command",
    )
    download = gr.DownloadButton("Download PNGs and manifest", visible=False, elem_id=f"{prefix}-download")
    return images, cost, command, download


def show_result(result: GeneratedImages, note: str = "") -> tuple[str, gr.Code, gr.DownloadButton]:
    """What :func:`result_view` shows beside the gallery; ``note`` is added to the cost."""
    output, count = result.output, len(result.output.images)
    seconds = result.seconds / count
    time = f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
    entropy = (
        "" if output.path_entropy is None else f" · mean entropy **{float(output.path_entropy.mean()):.2f}** nats"
    )
    cost = f"**{count}** images · **{output.nfe}** network evaluations each · **{time}** per image{entropy}{note}"
    return cost, gr.Code(result.command, visible=True), gr.DownloadButton(value=str(result.download), visible=True)


def errors_on_page(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the function of an event so that errors become notices, and the page keeps its contents."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            message = html.escape(str(error))  # it may contain the name of an uploaded file
            raise gr.Error(
                message[:1].upper() + message[1:], title="This does not work", print_exception=False
            ) from error
        except StoppedError:
            gr.Info("Stopped. The previous results are still there.", title="Stopped")
            return gr.skip()

    return wrapped


class StopButton:
    """A button that is there while a visitor's job waits or runs, and stops it.

    Args:
        studio: runs the jobs.
        prefix: prefix of the element's id.
    """

    def __init__(self, studio: Studio, prefix: str) -> None:
        self._studio, self._jobs = studio, list[Dependency]()
        self._button = gr.Button("Stop", variant="stop", visible=False, elem_id=f"{prefix}-stop", min_width=90)

    def job(self, trigger: Callable[..., Dependency], function: Callable[..., Any], **options: Any) -> None:
        """Run a function of the model when an event happens.

        Args:
            trigger: registers an event, such as the ``click`` of a button.
            function: what to run.
            options: of the event: its inputs, its outputs, and so on.
        """
        shown = trigger(lambda: gr.Button(visible=True), None, self._button, **QUICK)
        self._jobs.append(shown.then(function, **MODEL_JOB | options))
        for ended in (self._jobs[-1].success, self._jobs[-1].failure):
            ended(lambda: gr.Button(visible=False), None, self._button, **QUICK)

    def connect(self) -> None:
        """Let the button stop all jobs: the running one at its next evaluation, waiting ones at once."""

        def stop(request: gr.Request) -> gr.Button:
            self._studio.stop(session_of(request))
            gr.Info("Stopping at the next evaluation.", title="Stop")
            return gr.Button(visible=False)

        self._button.click(stop, None, self._button, cancels=[*self._jobs], **SIDE_JOB)


def session_of(request: gr.Request) -> str:
    """The session that a request belongs to."""
    return request.session_hash or "unknown"
