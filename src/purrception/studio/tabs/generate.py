"""The tab *Generate*: images by class."""

from __future__ import annotations

import secrets
from typing import Any

import gradio as gr

from purrception.studio.controls import (
    QUICK,
    SIDE_JOB,
    SamplingControls,
    StopButton,
    class_menu,
    count_slider,
    errors_on_page,
    gallery,
    read_seed,
    result_view,
    seed_field,
    session_of,
    settings_group,
    show_result,
    whole_number,
)
from purrception.studio.pictures import colour_scale
from purrception.studio.session import MAX_IMAGES, GeneratedImages, Studio, display
from purrception.utils.visualisation import heat_map

IN_TURN = "classes in turn"
IMAGES, UNCERTAINTY = "Images", "Uncertainty"
LONG_NAME = 5
"""The most letters of a class's name that fit below a small picture."""


class GenerateTab:
    """Controls, and the generated images; other tabs take them from ``result`` and ``selected``."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.result = gr.State(None)
        self.selected = gr.State(0)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                with settings_group("choice"):
                    menu = class_menu(studio, "generate", no_class=IN_TURN)
                    number = count_slider("generate", "Images", 8, MAX_IMAGES)
                    seed = seed_field("generate")
                thumbnails = self._thumbnails()
                self._controls = SamplingControls(studio.defaults, bool(studio.class_names), "generate")
                with gr.Row(elem_classes="actions"):
                    go = gr.Button("Generate", variant="primary", elem_id="generate-go", min_width=90)
                    dice = gr.Button("New seed", elem_id="generate-dice", min_width=90)
                    stop = StopButton(studio, "generate")
            with gr.Column(scale=6, min_width=320):
                view = gr.Radio(
                    [IMAGES, UNCERTAINTY],
                    value=IMAGES,
                    label="What is shown",
                    show_label=False,
                    container=False,
                    elem_id="generate-view",
                )
                scale = gr.HTML(visible=False, elem_id="generate-scale")
                images, *details = result_view(
                    "generate",
                    "*No images yet: choose a class and press Generate.*",
                    "The same images on the command line",
                )
        job: dict[str, Any] = {
            "function": self._generate,
            "inputs": [menu, number, seed, *self._controls.components, view],
            "outputs": [self.result, images, scale, *details],
            "show_progress_on": [images],
            "scroll_to_output": True,
        }
        stop.job(go.click, **job, api_name="generate", api_visibility="public")
        stop.job(dice.click(lambda: secrets.randbelow(10**6), None, seed, **QUICK).then, **job)
        stop.connect()
        view.change(self._view, [self.result, view], [images, scale], **SIDE_JOB)
        images.select(self._selected_image, None, self.selected, **QUICK)
        if thumbnails is not None:
            thumbnails.select(self._selected_class, None, menu, **QUICK)

    def _thumbnails(self) -> gr.Gallery | None:
        if not self._studio.class_names:
            return None
        gr.HTML("<p class='quiet'>Training images: click one to choose its class.</p>", padding=False)
        shown = self._studio.thumbnails()
        look = ["images", "worded"] if any(len(name) > LONG_NAME for _, name in shown) else "images"
        return gallery("generate-classes", value=shown, allow_preview=False, elem_classes=look)

    def _selected_class(self, event: gr.SelectData) -> str:
        return self._studio.class_names[event.index]

    def _selected_image(self, event: gr.SelectData) -> int:
        return int(event.index)

    @errors_on_page
    def _generate(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        class_name, number, seed, *settings, view = values
        count = whole_number("the number of images", number, MAX_IMAGES)
        class_labels = [class_name] * count if class_name in self._studio.class_names else None
        result = self._studio.generate(
            self._studio.pipeline.resolve_labels(class_labels, count),
            self._controls.read(settings),
            read_seed(seed),
            session_of(request),
            lambda share: progress(share, desc="sampling"),
        )
        return result, *self._view(result, view), *show_result(result)

    def _view(self, result: GeneratedImages | None, view: str) -> Any:
        """The gallery and its scale: images, or heat maps of the entropy of their posterior over the path."""
        if result is None:
            return gr.skip(), gr.skip()
        scale = gr.HTML(visible=False)
        names, images, entropy = self._studio.class_names, result.output.images, result.output.path_entropy
        captions = [names[label] if label < len(names) else "" for label in result.output.labels]
        if view == UNCERTAINTY and entropy is not None:
            brightest, pairs = float(entropy.max()), zip(entropy, images, strict=True)
            images = [heat_map(nats.numpy(), brightest, image.size) for nats, image in pairs]
            scale = gr.HTML(colour_scale(brightest), visible=True)
        elif view == UNCERTAINTY:
            gr.Info("This model has no posterior, so it has no uncertainty to show.")
        return [(display(image), caption) for image, caption in zip(images, captions, strict=True)], scale
