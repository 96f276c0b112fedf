"""The page: its head, its tabs and its style. It uses the fonts of the visitor's machine."""

from __future__ import annotations

import html
from pathlib import Path

import gradio as gr

from purrception.studio.controls import session_of
from purrception.studio.painting_limits import limit_paintings
from purrception.studio.session import Studio
from purrception.studio.tabs.compare import CompareTab
from purrception.studio.tabs.edit import EditTab
from purrception.studio.tabs.generate import GenerateTab
from purrception.studio.tabs.look_inside import LookInsideTab
from purrception.studio.tabs.reports import ReportsTab

FONTS = ("ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
STYLE = Path(__file__).with_name("style.css")


def theme() -> gr.themes.Base:
    """Gradio's soft theme with one accent colour and installed fonts."""
    soft = gr.themes.Soft(
        primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", font=FONTS, font_mono=MONO
    )
    return soft.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill_dark="*neutral_900",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
    )


def style(studio: Studio) -> str:
    """The style sheet; small images keep their pixels when a browser enlarges them."""
    processor = studio.pipeline.image_processor
    sharp = ".images img { image-rendering: pixelated; }" if max(processor.height, processor.width) < 128 else ""
    return STYLE.read_text(encoding="utf-8") + sharp


def build_page(studio: Studio) -> gr.Blocks:
    """The page of one run, with all tabs."""
    limit_paintings()
    with gr.Blocks(title=f"{studio.name} · purrception", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_head(studio))
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Generate", id="generate"):
                generated = GenerateTab(studio)
            with gr.Tab("Look inside", id="look"):
                LookInsideTab(studio)
            with gr.Tab("Edit", id="edit"):
                EditTab(studio, generated)
            with gr.Tab("Compare", id="compare"):
                CompareTab(studio)
            with gr.Tab("Reports", id="reports"):
                ReportsTab(studio)

        def leave(request: gr.Request) -> None:
            studio.leave(session_of(request))

        page.unload(leave)
    return page


def _head(studio: Studio) -> str:
    network, pipeline = studio.pipeline.transformer, studio.pipeline
    height, width = network.grid
    parameters = sum(parameter.numel() for parameter in network.parameters())
    chips = (
        pipeline.config.objective,
        f"{parameters / 1e6:.1f} M parameters",
        f"{pipeline.image_processor.width}×{pipeline.image_processor.height} pixels",
        f"{height}×{width} tokens of {len(network.codebook)} codes",
        f"{network.num_classes} classes" if network.num_classes else "no classes",
        str(studio.device),
    )
    spans = "".join(f"<span class='chip'>{html.escape(chip)}</span>" for chip in chips)
    return f"<div class='run-head'><h1>{html.escape(studio.name)}</h1>{spans}</div>"
