"""What is derived from dataclasses of settings: options, help texts, and the signature of a call."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest

from purrception import PurrceptionPipeline
from purrception.flow import SamplingConfig
from purrception.utils.errors import InputError
from purrception.utils.settings import as_options, field_docs


@dataclass(frozen=True)
class Example:
    """Settings with and without names of their own on the command line."""

    OPTIONS: ClassVar[dict[str, str]] = {"number_of_steps": "steps"}
    """Not a field."""

    number_of_steps: int = 3
    """The number of steps,
    over two lines."""
    undocumented: str = "a"
    seed: int = 0
    """Seed of the noise."""

    def method(self) -> None:
        """Not the docstring of a field."""


def test_options_are_the_fields_under_their_names_on_the_command_line() -> None:
    assert as_options(Example(number_of_steps=7)) == {"steps": 7, "undocumented": "a", "seed": 0}
    options = as_options(SamplingConfig(guidance_scale=1.5))
    assert options["steps"] == 50
    assert options["guidance"] == 1.5
    assert "num_inference_steps" not in options
    assert len(options) == len(fields(SamplingConfig))


def test_the_help_of_a_field_is_the_docstring_below_it_on_one_line() -> None:
    docs = field_docs(Example)
    assert docs["number_of_steps"] == "The number of steps, over two lines."
    assert docs["seed"] == "Seed of the noise."
    assert "undocumented" not in docs
    assert {item.name for item in fields(SamplingConfig)} <= field_docs(SamplingConfig).keys()


def test_a_call_of_the_pipeline_lists_every_setting_with_its_default() -> None:
    parameters = inspect.signature(PurrceptionPipeline.__call__).parameters
    assert list(parameters)[:5] == ["self", "class_labels", "num_images", "seed", "batch_size"]
    assert list(parameters)[5:] == [item.name for item in fields(SamplingConfig)]
    for item in fields(SamplingConfig):
        assert parameters[item.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[item.name].default == item.default


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("guidance", "guidance is now called guidance_scale"),
        ("strength", "strength is now called eta"),
        ("steps", "steps is now called num_inference_steps"),
        ("grid", "grid is now called timestep_spacing"),
        ("guidance_scal", "unknown setting 'guidance_scal': did you mean 'guidance_scale'"),
    ],
)
def test_a_call_of_the_pipeline_refuses_old_and_unknown_settings(
    tiny_run: Path, keyword: str, message: str
) -> None:
    pipeline = PurrceptionPipeline.from_pretrained(tiny_run / "pipeline")
    with pytest.raises(InputError, match=message):
        pipeline(**{keyword: 1.0})
