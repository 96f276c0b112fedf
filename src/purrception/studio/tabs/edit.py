"""The tab *Edit*: repaint, vary, refine, interpolate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from purrception.flow import SamplingConfig, Watcher
from purrception.generation.pipeline import PurrceptionOutput
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
from purrception.studio.session import GeneratedImages, OnProgress, Studio, display
from purrception.studio.tabs.generate import GenerateTab
from purrception.utils.errors import InputError

MAX_VARIANTS = 16


@dataclass(frozen=True)
class EditRequest:
    """What repainting, varying and interpolating have in common."""

    class_label: str | None
    count: int
    seed: int
    settings: SamplingConfig
    session: str
    on_progress: OnProgress


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

    def _request(self, values: list[Any], request: gr.Request, progress: gr.Progress) -> EditRequest:
        class_name, number, seed, *settings = values
        return EditRequest(
            class_name if class_name in self._studio.class_names else None,
            whole_number("the number of variants", number, MAX_VARIANTS),
            read_seed(seed),
            self._controls.read(settings),
            session_of(request),
            progress,
        )

    @errors_on_page
    def _repaint(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        picture, editor, margin, keep, *common = values
        picture, edit = _require_picture(picture), self._request(common, request, progress)
        margin, keep, mask = int(margin), bool(keep), painted_pixels(editor, picture)
        files = self._save(image=picture, mask=Image.fromarray(mask.astype(np.uint8) * 255))

        def run(watch: Watcher) -> PurrceptionOutput:
            return self._studio.pipeline.inpaint(
                picture,
                mask,
                edit.class_label,
                edit.count,
                edit.settings,
                edit.seed,
                margin=margin,
                keep_pixels=keep,
                watch=watch,
            )

        options = {**files, "margin": margin, "keep_pixels": keep, "num": edit.count, "seed": edit.seed}
        return self._run("inpaint", edit, options, run)

    @errors_on_page
    def _vary(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        picture, strength, *common = values
        picture, edit = _require_picture(picture), self._request(common, request, progress)

        def run(watch: Watcher) -> PurrceptionOutput:
            return self._studio.pipeline.vary(
                picture, strength, edit.class_label, edit.count, edit.settings, edit.seed, watch
            )

        options = {**self._save(image=picture), "strength": strength, "num": edit.count, "seed": edit.seed}
        return self._run("vary", edit, options, run)

    @errors_on_page
    def _refine(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        result, threshold, *_ = values
        result = _require_result(result)
        before, settings, seed = result.output, result.settings, result.seed
        began = time.monotonic()
        with self._studio.work(session_of(request), progress) as watch:
            output = self._studio.pipeline.refine(before, threshold, settings, seed, watch=watch)
        changed = int((output.indices != before.indices).sum())
        images = requested_images(self._studio.pipeline, output.labels)
        options = {**images, "threshold": threshold, "seed": seed}
        command = edit_command("refine", self._studio.target, options, settings)
        note = f" · **{changed}** of {output.indices.numel()} tokens changed"
        return _show(self._studio.finish(output, settings, seed, began, command), note)

    @errors_on_page
    def _interpolate(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        other_seed, *common = values
        edit = self._request(common, request, progress)
        seeds = edit.seed, read_seed(other_seed)

        def run(watch: Watcher) -> PurrceptionOutput:
            return self._studio.pipeline.interpolate(seeds, edit.count, edit.class_label, edit.settings, watch)

        return self._run("interpolate", edit, {"seeds": seeds, "num": edit.count}, run)

    def _run(
        self, verb: str, edit: EditRequest, options: dict[str, Any], run: Callable[[Watcher], PurrceptionOutput]
    ) -> Any:
        """Run an edit and show its images with their command line."""
        began = time.monotonic()
        with self._studio.work(edit.session, edit.on_progress) as watch:
            output = run(watch)
        if edit.class_label is not None:
            options["class_label"] = edit.class_label
        command = edit_command(verb, self._studio.target, options, edit.settings)
        return _show(self._studio.finish(output, edit.settings, edit.seed, began, command))

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
