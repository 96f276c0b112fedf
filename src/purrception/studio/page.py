"""The page: its head, its tabs and its style. It uses the fonts of the visitor's machine."""

from __future__ import annotations

import html

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
STYLE = """
.gradio-container, .block { min-width: 0 !important; }
.gradio-container .main, .gradio-container .contain { width: 100%; }
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; padding: 0 14px 40px !important; }
.run-head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 6px 14px; padding: 18px 2px 4px; }
.run-head h1 { font-size: 1.55rem; font-weight: 650; margin: 0; letter-spacing: -0.01em; }
.run-head .chip { font-size: 0.82rem; padding: 2px 10px; border-radius: 99px;
  background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); color: var(--body-text-color-subdued); white-space: nowrap; }
.pixels img { image-rendering: pixelated; }
.pixels .grid-container { grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important; }
.pixels .grid-wrap { min-height: 0 !important; max-height: none !important; }
.command .cm-scroller { min-height: 0 !important; } .command .cm-gutters { display: none; }
.command .cm-line { white-space: pre-wrap !important; overflow-wrap: anywhere !important; }
.buttons button { min-width: 90px; }
.settings .wrap .head { gap: 6px; } .settings .wrap .head label { flex: 1 1 100%; }
.cards { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 8px; }
.cards figure { margin: 0; padding: 8px; border-radius: 10px; background: var(--block-background-fill);
  border: 1px solid var(--border-color-primary); }
.cards img { width: 100%; border-radius: 6px; image-rendering: pixelated; display: block; }
.cards figcaption { font-size: 0.76rem; margin-top: 6px; display: flex; flex-wrap: wrap; gap: 0 6px;
  justify-content: space-between; }
.cards .bar { height: 4px; border-radius: 4px; margin-top: 4px; background: var(--color-accent); min-width: 2px; }
.quiet { color: var(--body-text-color-subdued) !important; font-size: 0.85rem; margin: 2px 0 0; }
.curves { width: 100%; height: auto; color: var(--body-text-color); }
.curves text { font-size: 13px; fill: var(--body-text-color-subdued); }
.curves .axis { fill: none; stroke: var(--border-color-primary); stroke-width: 1.5; }
.curves .here { stroke: var(--body-text-color-subdued); stroke-dasharray: 4 4; }
.curves .mean, .curves .largest { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
.curves .mean { stroke: var(--color-accent); } .curves .largest { stroke: #f59e0b; }
.curves .mean-name { fill: var(--color-accent); } .curves .largest-name { fill: #f59e0b; }
#look-picture { max-width: 400px; } #look-picture img { cursor: crosshair; width: 100%; height: auto; }
#generate-cost, #look-when, #look-token, #edit-cost, #compare-verdict { padding: 4px 2px; }
#generate-classes .thumbnail-item { aspect-ratio: 1 !important; height: auto !important; }
#generate-view { margin-bottom: 4px; }
#generate-classes .grid-container { grid-template-columns: repeat(auto-fill, minmax(58px, 1fr)) !important;
  grid-template-rows: none !important; grid-auto-rows: min-content;
  max-height: 280px; overflow-y: auto; gap: 6px; }
@media (max-width: 640px) {
  .cards { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .gradio-container { padding: 0 4px 32px !important; } .gradio-container .main { padding: 0 8px !important; }
  .run-head { padding-top: 12px; } .run-head h1 { font-size: 1.25rem; width: 100%; }
}
"""


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


def build_page(studio: Studio) -> gr.Blocks:
    """The page of one run, with all tabs."""
    limit_paintings()
    with gr.Blocks(title=f"{studio.name} · purrception", analytics_enabled=False) as page:
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
