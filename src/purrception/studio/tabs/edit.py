"""The tab *Edit*: repaint, vary, refine, interpolate."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from purrception.flow import AUTOMATIC, SamplingConfig
from purrception.generation.outputs import PurrceptionOutput
from purrception.generation.saving import edit_command, requested_images
from purrception.storage import save_png
from purrception.studio.controls import (
    QUICK,
    SamplingControls,
    StopButton,
    class_menu,
    count_slider,
    errors_on_page,
    read_seed,
    result_view,
    seed_field,
    session_of,
    settings_group,
    show_result,
    whole_number,
)
from purrception.studio.pictures import editor_value, open_upload, painted_pixels
from purrception.studio.session import GeneratedImages, Studio, display
from purrception.studio.tabs.generate import GenerateTab
from purrception.utils.errors import InputError

MAX_VARIANTS = 16
EDITS = ("Repaint", "Vary", "Refine", "Interpolate")


class EditTab:
    """A picture in an editor, and four ways to edit it."""

    def __init__(self, studio: Studio, generated: GenerateTab) -> None:
        self._studio = studio
        picture = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                upload = gr.File(label="A picture to edit", height=120, elem_id="edit-upload")
                take = gr.Button("Use the selected generated image", size="sm", elem_id="edit-take")
                crop = gr.Slider(
                    0,
                    1,
                    0.5,
                    step=0.01,
                    label="Crop: which square along the long side",
                    visible=False,
                    elem_id="edit-crop",
                )
                editor = gr.ImageEditor(
                    label="Paint what may change",
                    type="numpy",
                    image_mode="RGBA",
                    sources=(),
                    transforms=(),
                    layers=False,
                    brush=gr.Brush(default_size=40, colors=["#ff7a1a"], color_mode="fixed"),
                    canvas_size=(384, 384),
                    height=460,
                    elem_id="edit-editor",
                    elem_classes="images",
                    format="png",
                    visible=False,
                    buttons=[],
                )
                outputs = result_view("edit", "", "The same edit on the command line", visible=False)
            with gr.Column(scale=5, min_width=320):
                with settings_group("choice"):
                    menu = class_menu(studio, "edit")
                    number = count_slider("edit", "Variants", 4, MAX_VARIANTS)
                    seed = seed_field("edit")
                edits = self._edits(picture, editor, generated.result)
                self._controls = SamplingControls(studio.defaults, bool(studio.class_names), "edit")
                with gr.Row(elem_classes="actions"):
                    buttons = [
                        gr.Button(name, variant="primary", visible=not place, elem_id=f"edit-{name.lower()}")
                        for place, name in enumerate(EDITS)
                    ]
                    stop = StopButton(studio, "edit")
        shown: dict[str, Any] = {"outputs": [picture, editor, crop], "show_progress_on": editor}
        upload.upload(self._upload, upload, **shown, api_name="upload", queue=False)
        crop.input(self._crop, [upload, crop], **shown, trigger_mode="always_last", **QUICK)
        take.click(self._take, [generated.result, generated.selected], [*shown["outputs"], menu], **QUICK)
        common = [menu, number, seed, *self._controls.components]
        for place, (button, (tab, function, inputs)) in enumerate(zip(buttons, edits, strict=True)):
            tab.select(partial(_only, place), None, buttons, show_progress="hidden", **QUICK)
            stop.job(
                button.click,
                function,
                inputs=[*inputs, *common],
                outputs=outputs,
                show_progress_on=[outputs[1]],
                scroll_to_output=True,
            )
        stop.connect()

    def _edits(
        self, picture: gr.State, editor: gr.ImageEditor, generated: gr.State
    ) -> list[tuple[gr.Tab, Callable[..., Any], list[Any]]]:
        """Lay out a tab for each of :data:`EDITS`; returns it, its function and its inputs."""
        repaint, vary, refine, interpolate = EDITS
        methods = self._studio.pipeline.objective.conditionings
        with gr.Tabs():
            with gr.Tab(repaint, elem_id="edit-tab-repaint") as repaint_tab, settings_group():
                margin = gr.Slider(
                    0, 4, 0, step=1, precision=0, label="Margin", info="Tokens around that may change too."
                )
                conditioning = gr.Dropdown(
                    [(f"{AUTOMATIC}: {methods[0]}", AUTOMATIC), *methods],
                    value=AUTOMATIC,
                    label="Conditioning",
                    info="How the tokens that are kept act on the others.",
                    visible=len(methods) > 1,
                    elem_id="edit-conditioning",
                )
                keep = gr.Checkbox(
                    False, label="Keep the pixels of the picture outside the painted area", elem_classes="wide"
                )
            with gr.Tab(vary, elem_id="edit-tab-vary") as vary_tab, settings_group():
                strength = gr.Slider(
                    0.05,
                    1,
                    0.6,
                    step=0.05,
                    label="Strength",
                    info="Small values stay near the original; 1 keeps nothing of it.",
                    elem_classes="wide",
                )
            with gr.Tab(refine, elem_id="edit-tab-refine") as refine_tab, settings_group():
                threshold = gr.Slider(
                    0,
                    3,
                    0.5,
                    step=0.05,
                    label="Threshold",
                    info="Tokens of the images in Generate with a larger entropy at the last evaluation, in nats, "
                    "are sampled again. It is mostly far less than the average that Uncertainty shows.",
                    elem_classes="wide",
                )
            with gr.Tab(interpolate, elem_id="edit-tab-interpolate") as interpolate_tab, settings_group():
                other_seed = gr.Number(
                    1,
                    precision=0,
                    minimum=0,
                    label="Other seed",
                    info="From the image of the seed above to that of this one, along their noise.",
                    elem_classes="wide",
                )
        return [
            (repaint_tab, self._repaint, [picture, editor, margin, keep, conditioning]),
            (vary_tab, self._vary, [picture, strength]),
            (refine_tab, self._refine, [generated, threshold]),
            (interpolate_tab, self._interpolate, [other_seed]),
        ]

    @errors_on_page
    def _upload(self, path: Any, request: gr.Request) -> Any:
        self._studio.uploads.register(session_of(request), path)
        return self._open(path, 0.5)

    @errors_on_page
    def _crop(self, path: Any, position: float) -> Any:
        return self._open(path, position)

    def _open(self, path: Any, position: float) -> Any:
        """An uploaded picture, and where to crop it, in the editor."""
        processor = self._studio.pipeline.image_processor
        whole = open_upload(path, processor, self._studio.uploads.folder)
        picture = processor.preprocess(whole, position)
        return picture, _in_editor(picture), gr.Slider(value=position, visible=whole.width != whole.height)

    @errors_on_page
    def _take(self, result: GeneratedImages | None, selected: int) -> Any:
        output = _require_result(result).output
        number = min(int(selected or 0), len(output.images) - 1)
        picture, label = output.images[number], output.labels[number]
        names = self._studio.class_names
        class_name = names[label] if label < len(names) else gr.skip()
        return picture, _in_editor(picture), gr.Slider(visible=False), class_name

    def _read(self, values: list[Any]) -> tuple[str | None, int, int, SamplingConfig]:
        """What the edits have in common: the class, the number of variants, the seed and the settings."""
        class_name, number, seed, *settings = values
        return (
            class_name if class_name in self._studio.class_names else None,
            whole_number("the number of variants", number, MAX_VARIANTS),
            read_seed(seed),
            self._controls.read(settings),
        )

    @errors_on_page
    def _repaint(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        picture, editor, margin, keep, conditioning, *common = values
        picture = _require_picture(picture)
        label, count, seed, settings = self._read(common)
        mask = painted_pixels(editor, picture)
        how: dict[str, Any] = {"margin": int(margin), "keep_pixels": bool(keep), "conditioning": conditioning}
        inpaint = partial(self._studio.pipeline.inpaint, picture, mask, label, count, settings, seed, **how)
        files = self._save(image=picture, mask=Image.fromarray(mask.astype(np.uint8) * 255))
        changed = {"margin": margin or None, "keep_pixels": keep or None}
        changed["conditioning"] = None if conditioning == AUTOMATIC else conditioning
        options = {**files, **changed, "num": count, "seed": seed or None, "class_label": label}
        return _show(self._run("inpaint", inpaint, options, settings, seed, request, progress))

    @errors_on_page
    def _vary(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        picture, strength, *common = values
        picture = _require_picture(picture)
        label, count, seed, settings = self._read(common)
        vary = partial(self._studio.pipeline.vary, picture, strength, label, count, settings, seed)
        files = self._save(image=picture)
        options = {**files, "strength": strength, "num": count, "seed": seed or None, "class_label": label}
        return _show(self._run("vary", vary, options, settings, seed, request, progress))

    @errors_on_page
    def _refine(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        result, threshold, *_ = values
        result = _require_result(result)
        before, settings, seed = result.output, result.settings, result.seed
        refine = partial(self._studio.pipeline.refine, before, threshold, settings, seed)
        images = requested_images(self._studio.pipeline, before.labels)
        options = {**images, "threshold": threshold, "seed": seed or None}
        refined = self._run("refine", refine, options, settings, seed, request, progress)
        changed = int((refined.output.indices != before.indices).sum())
        return _show(refined, f" · **{changed}** of {before.indices.numel()} tokens changed")

    @errors_on_page
    def _interpolate(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        other_seed, *common = values
        label, count, seed, settings = self._read(common)
        seeds = seed, read_seed(other_seed)
        interpolate = partial(self._studio.pipeline.interpolate, seeds, count, label, settings)
        options = {"seeds": seeds, "num": count, "class_label": label}
        return _show(self._run("interpolate", interpolate, options, settings, seed, request, progress))

    def _run(
        self,
        verb: str,
        edit: Callable[..., PurrceptionOutput],
        options: dict[str, Any],
        settings: SamplingConfig,
        seed: int,
        request: gr.Request,
        progress: gr.Progress,
    ) -> GeneratedImages:
        """Run an edit; returns its images with the command line of these options, without those that are None."""
        with self._studio.work(session_of(request), progress) as watch:
            began = time.monotonic()
            output = edit(watch=watch)
            seconds = time.monotonic() - began
        command = edit_command(verb, self._studio.target, options, settings, self._studio.defaults)
        return self._studio.finish(output, settings, seed, seconds, command)

    def _save(self, **pictures: Image.Image) -> dict[str, str]:
        """Save the inputs of an edit in the run's folder, for its command line; returns their paths."""
        folder = self._studio.next_folder("edits")
        paths = {name: folder / f"{name}.png" for name in pictures}
        for name, image in pictures.items():
            save_png(image, paths[name])
        return {name: str(path) for name, path in paths.items()}


def _only(place: int) -> list[gr.Button]:
    """Updates that show one of the buttons of the edits."""
    return [gr.Button(visible=other == place) for other in range(len(EDITS))]


def _in_editor(picture: Image.Image) -> Any:
    """An update that shows a picture in the editor."""
    return gr.update(value=editor_value(picture), visible=True)


def _require_picture(picture: Image.Image | None) -> Image.Image:
    if picture is None:
        raise InputError("there is no picture yet: upload one, or use a generated one")
    return picture


def _require_result(result: GeneratedImages | None) -> GeneratedImages:
    if result is None:
        raise InputError("there are no generated images yet: make some in the tab Generate first")
    return result


def _show(result: GeneratedImages, note: str = "") -> Any:
    images = gr.Gallery([display(image) for image in result.output.images], visible=True)
    return images, *show_result(result, note)
