"""The third tab: repaint, vary, refine, interpolate."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from purrception.generation.saving import edit_command, requested_images
from purrception.storage import save_png
from purrception.studio.controls import (
    ON_MODEL,
    SamplingControls,
    check_number,
    class_menu,
    connect_stop,
    cost_line,
    seed_of,
    session_of,
    shows_errors,
)
from purrception.studio.generate import GenerateTab
from purrception.studio.session import Generated, Report, Studio, display
from purrception.studio.uploads import editor_value, painted_pixels, take_picture
from purrception.utils.errors import InputError


@dataclass(frozen=True)
class Request:
    """What is common to every edit: under which class, how many, how, and whose."""

    menu: str
    count: int
    seed: int
    controls: tuple[Any, ...]
    session: str
    report: Report


class EditTab:
    """One picture on an editor_value, and four things to do with it."""

    def __init__(self, studio: Studio, generated: GenerateTab) -> None:
        self._studio = studio
        picture = gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                with gr.Row():
                    upload = gr.UploadButton("Upload a picture", size="sm", elem_id="edit-upload")
                    take = gr.Button("Take the chosen generated image", size="sm", elem_id="edit-take")
                hint = gr.Markdown(
                    "*No picture yet: upload one, or take one that you generated.*", elem_id="edit-hint"
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
                outputs = self._results()
            with gr.Column(scale=5, min_width=320):
                with gr.Row():
                    menu = class_menu(studio, "Under the class", "edit-class")
                    number = gr.Slider(1, 16, 4, step=1, precision=0, label="Variants", elem_id="edit-number")
                    seed = gr.Number(0, precision=0, minimum=0, label="Seed", elem_id="edit-seed")
                actions = self._actions(picture, editor, generated.made)
                self._controls = SamplingControls(studio.defaults, bool(studio.class_names), "edit")
                stop = gr.Button("Stop", variant="stop", elem_id="edit-stop")
        upload.upload(self._upload, upload, [picture, editor, hint], api_name="upload", queue=False)
        take.click(
            self._take,
            [generated.made, generated.chosen],
            [picture, editor, hint, menu],
            queue=False,
            api_visibility="private",
        )
        common = [menu, number, seed, *self._controls.components]
        runs = [
            button.click(
                function,
                [*inputs, *common],
                outputs,
                **ON_MODEL,
                show_progress_on=[outputs[1]],
                api_visibility="private",
            )
            for button, function, inputs in actions
        ]
        connect_stop(stop, studio, runs)

    def _actions(
        self, picture: gr.State, editor: gr.ImageEditor, made: gr.State
    ) -> list[tuple[Any, Any, list[Any]]]:
        """What can be done, a tab each: (button, function, its own inputs)."""
        with gr.Tabs():
            with gr.Tab("Repaint", elem_id="edit-tab-repaint"):
                margin = gr.Slider(0, 4, 0, step=1, precision=0, label="Also free this many tokens around")
                keep = gr.Checkbox(False, label="Keep the pixels of the picture outside the paint")
                repaint = gr.Button("Repaint", variant="primary", elem_id="edit-repaint")
            with gr.Tab("Vary", elem_id="edit-tab-vary"):
                strength = gr.Slider(
                    0.05, 1, 0.6, step=0.05, label="Strength", info="small: near the original; 1: nothing of it"
                )
                vary = gr.Button("Vary", variant="primary", elem_id="edit-vary")
            with gr.Tab("Refine", elem_id="edit-tab-refine"):
                gr.Markdown("Makes the uncertain tokens of what *Generate* made anew, under the certain ones.")
                threshold = gr.Slider(0, 3, 0.5, step=0.05, label="Tokens above this entropy, nats")
                refine = gr.Button("Refine", variant="primary", elem_id="edit-refine")
            with gr.Tab("Interpolate", elem_id="edit-tab-interpolate"):
                gr.Markdown("From the image of the seed above to that of another, along their noise.")
                other = gr.Number(1, precision=0, minimum=0, label="Other seed")
                between = gr.Button("Interpolate", variant="primary", elem_id="edit-between")
        return [
            (repaint, self._repaint, [picture, editor, margin, keep]),
            (vary, self._vary, [picture, strength]),
            (refine, self._refine, [made, threshold]),
            (between, self._between, [other]),
        ]

    def _results(self) -> list[Any]:
        """A gallery, what it cost, its command line, a download."""
        gallery = gr.Gallery(
            show_label=False,
            columns=4,
            height="auto",
            object_fit="contain",
            format="png",
            elem_id="edit-gallery",
            elem_classes="pixels",
            buttons=["fullscreen"],
            interactive=False,
            visible=False,
        )
        cost = gr.Markdown(elem_id="edit-cost")
        command = gr.Code(
            language="shell",
            label="The same edit on the command line",
            visible=False,
            elem_id="edit-command",
            wrap_lines=True,
            interactive=False,
            elem_classes="command",
        )
        return [gallery, cost, command, gr.DownloadButton("Download PNGs and manifest", visible=False)]

    @shows_errors
    def _upload(self, path: Any, request: gr.Request) -> Any:
        self._studio.uploads.bring(session_of(request), path)
        taken = take_picture(path, self._studio.pipeline.image_processor, self._studio.uploads.folder)
        return taken, *_in_editor(taken)

    @shows_errors
    def _take(self, made: Generated | None, chosen: int) -> Any:
        if made is None:
            raise InputError("nothing has been generated yet: make images in the tab Generate, and click one")
        number = min(int(chosen or 0), len(made.out.images) - 1)
        picture, label = made.out.images[number], made.out.labels[number]
        names = self._studio.class_names
        return picture, *_in_editor(picture), names[label] if label < len(names) else gr.skip()

    def _asked(self, values: list[Any], request: gr.Request, progress: gr.Progress) -> Request:
        menu, number, seed, *controls = values
        count = check_number("the number of variants", number, 16)
        return Request(
            menu, count, seed_of(seed), tuple(controls), session_of(request), lambda share: progress(share)
        )

    @shows_errors
    def _repaint(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        picture, editor, margin, keep, *common = values
        asked, picture = self._asked(common, request, progress), _require_picture(picture)
        mask = painted_pixels(editor, picture)
        files = self._keep(image=picture, mask=Image.fromarray(mask.astype(np.uint8) * 255))
        options = {**files, "margin": int(margin), "keep_pixels": bool(keep), "num": asked.count}

        def run(label: str | None, settings: Any, watch: Any) -> Any:
            return self._studio.pipeline.inpaint(
                picture, mask, label, asked.count, settings, asked.seed, 1.0, int(margin), bool(keep), watch
            )

        return self._edited("inpaint", asked, options | {"seed": asked.seed}, run)

    @shows_errors
    def _vary(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        picture, strength, *common = values
        asked, picture = self._asked(common, request, progress), _require_picture(picture)
        options = {**self._keep(image=picture), "strength": strength, "num": asked.count, "seed": asked.seed}

        def run(label: str | None, settings: Any, watch: Any) -> Any:
            return self._studio.pipeline.vary(picture, strength, label, asked.count, settings, asked.seed, watch)

        return self._edited("vary", asked, options, run)

    @shows_errors
    def _refine(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        made, threshold, *common = values
        asked = self._asked(common, request, progress)
        if made is None:
            raise InputError("nothing has been generated yet: make images in the tab Generate, then refine them")
        began = time.monotonic()
        with self._studio.work(asked.session, asked.report) as watch:
            out = self._studio.pipeline.refine(made.out, threshold, made.settings, made.seed, watch=watch)
        changed = int((out.indices != made.out.indices).sum())
        images = requested_images(self._studio.pipeline, out.labels)
        options = {**images, "threshold": threshold, "seed": made.seed}
        command = edit_command("refine", self._studio.target, options, made.settings)
        note = f" · **{changed}** of {out.indices.numel()} tokens changed"
        return _shown(self._studio.finish(out, made.settings, made.seed, began, command), note)

    @shows_errors
    def _between(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        other, *common = values
        asked, end = self._asked(common, request, progress), seed_of(other)

        def run(label: str | None, settings: Any, watch: Any) -> Any:
            return self._studio.pipeline.interpolate((asked.seed, end), asked.count, label, settings, watch)

        return self._edited("interpolate", asked, {"seeds": (asked.seed, end), "num": asked.count}, run)

    def _edited(self, verb: str, asked: Request, options: dict[str, Any], run: Any) -> Any:
        """Do an edit, watched, and show it with its command line."""
        settings = self._controls.read(asked.controls)
        label = asked.menu if asked.menu in self._studio.class_names else None
        began = time.monotonic()
        with self._studio.work(asked.session, asked.report) as watch:
            out = run(label, settings, watch)
        if label is not None:
            options["class_label"] = label
        command = edit_command(verb, self._studio.target, options, settings)
        return _shown(self._studio.finish(out, settings, asked.seed, began, command))

    def _keep(self, **pictures: Image.Image) -> dict[str, str]:
        """Put what an edit was made from into the run's folder, for its command line."""
        folder: Path = self._studio.next_folder("edits")
        for name, image in pictures.items():
            save_png(image, folder / f"{name}.png")
        return {name: str(folder / f"{name}.png") for name in pictures}


def _in_editor(picture: Image.Image) -> Any:
    """The editor with a picture, and no hint."""
    return gr.update(value=editor_value(picture), visible=True), gr.Markdown(visible=False)


def _require_picture(picture: Image.Image | None) -> Image.Image:
    if picture is None:
        raise InputError("there is no picture yet: upload one, or take a generated one")
    return picture


def _shown(made: Generated, note: str = "") -> Any:
    return (
        gr.Gallery([display(image) for image in made.out.images], visible=True),
        cost_line(made) + note,
        gr.Code(made.command, visible=True),
        gr.DownloadButton(value=str(made.download), visible=True),
    )
