"""The tab *Edit*: repaint, vary, refine, interpolate."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from purrception.flow import SamplingConfig
from purrception.generation.outputs import PurrceptionOutput
from purrception.generation.saving import edit_command, requested_images
from purrception.storage import save_png
from purrception.studio.controls import (
    MODEL_JOB,
    QUICK,
    SamplingControls,
    class_menu,
    connect_stop,
    count_slider,
    errors_on_page,
    read_seed,
    result_view,
    seed_field,
    session_of,
    show_result,
    whole_number,
)
from purrception.studio.pictures import editor_value, open_upload, painted_pixels
from purrception.studio.session import GeneratedImages, Studio, display
from purrception.studio.tabs.generate import GenerateTab
from purrception.utils.errors import InputError

MAX_VARIANTS = 16


class EditTab:
    """A picture in an editor, and four ways to edit it."""

    def __init__(self, studio: Studio, generated: GenerateTab) -> None:
        self._studio = studio
        picture = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                with gr.Row():
                    upload = gr.UploadButton("Upload a picture", size="sm", elem_id="edit-upload")
                    take = gr.Button("Use the selected generated image", size="sm", elem_id="edit-take")
                hint = gr.Markdown(
                    "*No picture yet: upload one, or use one that you generated.*", elem_id="edit-hint"
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
                    elem_classes="pixels",
                    format="png",
                    visible=False,
                    buttons=[],
                )
                outputs = result_view("edit", "", "The same edit on the command line", visible=False)
            with gr.Column(scale=5, min_width=320):
                with gr.Row():
                    menu = class_menu(studio, "Class", "edit")
                    number = count_slider("edit", "Variants", 4, MAX_VARIANTS)
                    seed = seed_field("edit")
                actions = self._actions(picture, editor, generated.result)
                self._controls = SamplingControls(studio.defaults, bool(studio.class_names), "edit")
                stop = gr.Button("Stop", variant="stop", elem_id="edit-stop")
        upload.upload(self._upload, upload, [picture, editor, hint], api_name="upload", queue=False)
        take.click(self._take, [generated.result, generated.selected], [picture, editor, hint, menu], **QUICK)
        common = [menu, number, seed, *self._controls.components]
        jobs = [
            button.click(function, [*inputs, *common], outputs, show_progress_on=[outputs[1]], **MODEL_JOB)
            for button, function, inputs in actions
        ]
        connect_stop(stop, studio, jobs)

    def _actions(
        self, picture: gr.State, editor: gr.ImageEditor, generated: gr.State
    ) -> list[tuple[gr.Button, Callable[..., Any], list[Any]]]:
        """Lay out a tab for each edit; returns its button, its function and its inputs."""
        with gr.Tabs():
            with gr.Tab("Repaint", elem_id="edit-tab-repaint"):
                margin = gr.Slider(0, 4, 0, step=1, precision=0, label="Margin: tokens around that may change too")
                keep = gr.Checkbox(False, label="Keep the pixels of the picture outside the painted area")
                repaint = gr.Button("Repaint", variant="primary", elem_id="edit-repaint")
            with gr.Tab("Vary", elem_id="edit-tab-vary"):
                strength = gr.Slider(
                    0.05,
                    1,
                    0.6,
                    step=0.05,
                    label="Strength",
                    info="Small values stay near the original; 1 keeps nothing of it.",
                )
                vary = gr.Button("Vary", variant="primary", elem_id="edit-vary")
            with gr.Tab("Refine", elem_id="edit-tab-refine"):
                gr.Markdown("Samples the uncertain tokens of the images in *Generate* again.")
                threshold = gr.Slider(0, 3, 0.5, step=0.05, label="Refine tokens with an entropy above, in nats")
                refine = gr.Button("Refine", variant="primary", elem_id="edit-refine")
            with gr.Tab("Interpolate", elem_id="edit-tab-interpolate"):
                gr.Markdown("Goes from the image of the seed above to that of another, along their noise.")
                other_seed = gr.Number(1, precision=0, minimum=0, label="Other seed")
                interpolate = gr.Button("Interpolate", variant="primary", elem_id="edit-between")
        return [
            (repaint, self._repaint, [picture, editor, margin, keep]),
            (vary, self._vary, [picture, strength]),
            (refine, self._refine, [generated, threshold]),
            (interpolate, self._interpolate, [other_seed]),
        ]

    @errors_on_page
    def _upload(self, path: Any, request: gr.Request) -> Any:
        self._studio.uploads.register(session_of(request), path)
        picture = open_upload(path, self._studio.pipeline.image_processor, self._studio.uploads.folder)
        return picture, *_in_editor(picture)

    @errors_on_page
    def _take(self, result: GeneratedImages | None, selected: int) -> Any:
        output = _require_result(result).output
        number = min(int(selected or 0), len(output.images) - 1)
        picture, label = output.images[number], output.labels[number]
        names = self._studio.class_names
        return picture, *_in_editor(picture), names[label] if label < len(names) else gr.skip()

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
        picture, editor, margin, keep, *common = values
        picture = _require_picture(picture)
        label, count, seed, settings = self._read(common)
        mask = painted_pixels(editor, picture)
        how: dict[str, Any] = {"margin": int(margin), "keep_pixels": bool(keep)}
        inpaint = partial(self._studio.pipeline.inpaint, picture, mask, label, count, settings, seed, **how)
        files = self._save(image=picture, mask=Image.fromarray(mask.astype(np.uint8) * 255))
        options = {**files, **how, "num": count, "seed": seed, "class_label": label}
        return _show(self._run("inpaint", inpaint, options, settings, seed, request, progress))

    @errors_on_page
    def _vary(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        picture, strength, *common = values
        picture = _require_picture(picture)
        label, count, seed, settings = self._read(common)
        vary = partial(self._studio.pipeline.vary, picture, strength, label, count, settings, seed)
        files = self._save(image=picture)
        options = {**files, "strength": strength, "num": count, "seed": seed, "class_label": label}
        return _show(self._run("vary", vary, options, settings, seed, request, progress))

    @errors_on_page
    def _refine(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        result, threshold, *_ = values
        result = _require_result(result)
        before, settings, seed = result.output, result.settings, result.seed
        refine = partial(self._studio.pipeline.refine, before, threshold, settings, seed)
        images = requested_images(self._studio.pipeline, before.labels)
        options = {**images, "threshold": threshold, "seed": seed}
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
        began = time.monotonic()
        with self._studio.work(session_of(request), progress) as watch:
            output = edit(watch=watch)
        given = {name: value for name, value in options.items() if value is not None}
        command = edit_command(verb, self._studio.target, given, settings)
        return self._studio.finish(output, settings, seed, began, command)

    def _save(self, **pictures: Image.Image) -> dict[str, str]:
        """Save the inputs of an edit in the run's folder, for its command line; returns their paths."""
        folder = self._studio.next_folder("edits")
        paths = {name: folder / f"{name}.png" for name in pictures}
        for name, image in pictures.items():
            save_png(image, paths[name])
        return {name: str(path) for name, path in paths.items()}


def _in_editor(picture: Image.Image) -> Any:
    """Updates that show a picture in the editor and hide the hint."""
    return gr.update(value=editor_value(picture), visible=True), gr.Markdown(visible=False)


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
