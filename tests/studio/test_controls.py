"""The sampling controls of the page, without a server."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from purrception.flow import SamplingConfig
from purrception.utils.errors import InputError
from purrception.utils.settings import field_docs

gradio = pytest.importorskip("gradio")

from purrception.studio.controls import SamplingControls  # noqa: E402 - gradio is optional

CHANGED = SamplingConfig(
    num_inference_steps=7,
    solver="heun",
    temperature="linear:1.0:0.7",
    guidance_scale=2.5,
    guidance_interval=(0.2, 0.8),
    top_k=5,
    redraw=True,
)


def controls_of(settings: SamplingConfig, has_classes: bool = True) -> SamplingControls:
    with gradio.Blocks():
        return SamplingControls(settings, has_classes, "test")


def values_of(controls: SamplingControls) -> list[Any]:
    return [component.value for component in controls.components]


def test_every_setting_has_a_control_with_its_help() -> None:
    controls = controls_of(SamplingConfig())
    infos = {component.info for component in controls.components}
    assert {field_docs(SamplingConfig)[item.name] for item in fields(SamplingConfig)} <= infos
    assert len(controls.components) == len(fields(SamplingConfig)) + 2  # a schedule, and an end of the interval


@pytest.mark.parametrize("settings", [SamplingConfig(), CHANGED])
def test_untouched_controls_give_back_the_defaults(settings: SamplingConfig) -> None:
    controls = controls_of(settings)
    assert controls.read(values_of(controls)) == settings


def test_without_classes_there_is_no_guidance() -> None:
    controls = controls_of(SamplingConfig(), has_classes=False)
    assert not [component for component in controls.components if "uidance" in component.label]
    assert controls.read(values_of(controls)) == SamplingConfig()


def test_changed_controls_are_read() -> None:
    controls = controls_of(SamplingConfig())
    values = values_of(controls)
    values[0], values[3] = 9, " linear:1:0.5 "
    assert controls.read(values) == replace(SamplingConfig(), num_inference_steps=9, temperature="linear:1:0.5")


def test_emptied_and_impossible_values_are_refused() -> None:
    controls = controls_of(SamplingConfig())
    usual = values_of(controls)
    for position, component in enumerate(controls.components):
        if isinstance(component, gradio.Slider | gradio.Number):
            with pytest.raises(InputError, match=r"is a (whole )?number.*given None"):
                controls.read([*usual[:position], None, *usual[position + 1 :]])
    for steps in (2.5, -1, 1001):
        with pytest.raises(InputError, match="steps is a whole number from 0 to 1000"):
            controls.read([steps, *usual[1:]])
