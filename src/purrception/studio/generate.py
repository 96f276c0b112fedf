"""The first tab: images by class."""

from __future__ import annotations

import secrets
from typing import Any

import gradio as gr
from PIL import Image

from purrception.studio.controls import (
    ON_MODEL,
    SIDE_QUEUE,
    SamplingControls,
    check_number,
    class_menu,
    connect_stop,
    cost_line,
    seed_of,
    session_of,
    shows_errors,
)
from purrception.studio.session import MOST_IMAGES, Generated, Studio, display
from purrception.utils.visualisation import heat_map

TURNS = "classes in turn"
IMAGES, UNCERTAINTY = "Images", "Uncertainty"


class GenerateTab:
    """Controls, a gallery, what it cost, how to repeat it; ``made`` is what other tabs take images from."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.made = gr.State(None)
        self.chosen = gr.State(0)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                menu = class_menu(studio, "Class", "generate-class", anything=TURNS)
                thumbnails = self._thumbnails()
                with gr.Row():
                    number = gr.Slider(
                        1, MOST_IMAGES, 8, step=1, precision=0, label="Images", elem_id="generate-number"
                    )
                    seed = gr.Number(0, precision=0, minimum=0, label="Seed", elem_id="generate-seed")
                self._controls = SamplingControls(studio.defaults, bool(studio.class_names), "generate")
                with gr.Row(elem_classes="buttons"):
                    go = gr.Button("Generate", variant="primary", elem_id="generate-go", min_width=90)
                    dice = gr.Button("New seed", elem_id="generate-dice", min_width=90)
                    stop = gr.Button("Stop", variant="stop", elem_id="generate-stop", min_width=90)
            with gr.Column(scale=6, min_width=320):
                view = gr.Radio(
                    [IMAGES, UNCERTAINTY], value=IMAGES, show_label=False, container=False, elem_id="generate-view"
                )
                gallery = gr.Gallery(
                    show_label=False,
                    columns=4,
                    object_fit="contain",
                    height="auto",
                    elem_id="generate-gallery",
                    elem_classes="pixels",
                    format="png",
                    buttons=["fullscreen"],
                    interactive=False,
                )
                cost = gr.Markdown(
                    "*Nothing made yet: choose a class and press Generate.*", elem_id="generate-cost"
                )
                command = gr.Code(
                    language="shell",
                    label="The same images on the command line",
                    visible=False,
                    elem_id="generate-command",
                    wrap_lines=True,
                    interactive=False,
                    elem_classes="command",
                )
                download = gr.DownloadButton(
                    "Download PNGs and manifest", visible=False, elem_id="generate-download"
                )
        inputs = [menu, number, seed, *self._controls.components]
        outputs = [self.made, gallery, cost, command, download]
        run = go.click(
            self._make,
            [*inputs, view],
            outputs,
            api_name="generate",
            **ON_MODEL,
            show_progress_on=[gallery],
        )
        dealt = dice.click(lambda: secrets.randbelow(10**6), None, seed, queue=False, api_visibility="private")
        anew = dealt.then(
            self._make,
            [*inputs, view],
            outputs,
            **ON_MODEL,
            show_progress_on=[gallery],
            api_visibility="private",
        )
        connect_stop(stop, studio, [run, anew])
        view.change(self._view, [self.made, view], gallery, **SIDE_QUEUE)
        gallery.select(self._choose, None, self.chosen, queue=False, api_visibility="private")
        if thumbnails is not None:
            thumbnails.select(self._name, None, menu, queue=False, api_visibility="private")

    def _thumbnails(self) -> gr.Gallery | None:
        if not self._studio.class_names:
            return None
        gr.HTML("<p class='quiet'>A training image of each class; click one to choose it.</p>")
        return gr.Gallery(
            self._studio.thumbnails(),
            columns=5,
            height="auto",
            allow_preview=False,
            object_fit="contain",
            show_label=False,
            elem_id="generate-classes",
            elem_classes="pixels",
            format="png",
            buttons=[],
            interactive=False,
        )

    def _name(self, event: gr.SelectData) -> str:
        return self._studio.class_names[event.index]

    def _choose(self, event: gr.SelectData) -> int:
        return int(event.index)

    @shows_errors
    def _make(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        menu, number, seed, *rest = values
        settings = self._controls.read(tuple(rest[:-1]))
        count = check_number("the number of images", number, MOST_IMAGES)
        named = [menu] * count if menu in self._studio.class_names else None
        labels = self._studio.pipeline.resolve_labels(named, count)
        made = self._studio.generate(
            labels, settings, seed_of(seed), session_of(request), lambda share: progress(share, desc="sampling")
        )
        return (
            made,
            self._view(made, rest[-1]),
            cost_line(made),
            gr.Code(made.command, visible=True),
            gr.DownloadButton(value=str(made.download), visible=True),
        )

    def _view(self, made: Generated | None, view: str) -> Any:
        """The gallery: images, or heat maps of their last posterior."""
        if made is None:
            return gr.skip()
        names = self._studio.class_names
        captions = [names[label] if label < len(names) else "" for label in made.out.labels]
        if view == UNCERTAINTY and made.out.entropy is None:
            gr.Info("This model has no posterior, hence no uncertainty to show.")
        shown = made.out.images
        if view == UNCERTAINTY and made.out.entropy is not None:
            shown = _maps(made)
        return [(display(image), caption) for image, caption in zip(shown, captions, strict=True)]


def _maps(made: Generated) -> list[Image.Image]:
    assert made.out.entropy is not None
    brightest = float(made.out.entropy.max())
    sizes = [image.size for image in made.out.images]
    return [heat_map(map_.numpy(), brightest, size) for map_, size in zip(made.out.entropy, sizes, strict=True)]
