"""What is derived from dataclasses of settings: options, help texts, and the signature of a call."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import ClassVar

import pytest

from purrception import PurrceptionPipeline
from purrception.cli.edit import VaryOptions
from purrception.cli.evaluate import EvaluateOptions
from purrception.cli.parsing import parse
from purrception.cli.sample import SampleOptions
from purrception.cli.sweep import SweepOptions
from purrception.cli.verbs import VERBS
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


def test_options_are_the_changed_fields_under_their_names_on_the_command_line() -> None:
    changed = {"steps": 7, "undocumented": "b", "seed": 1}
    assert as_options(Example(7, "b", 1), Example()) == changed
    assert as_options(SamplingConfig(guidance_scale=1.5), SamplingConfig()) == {"guidance": 1.5}
    assert as_options(SamplingConfig(), SamplingConfig(temperature=0.9)) == {"temperature": 1.0}


def test_the_help_of_a_field_is_the_docstring_below_it_on_one_line() -> None:
    docs = field_docs(Example)
    assert docs["number_of_steps"] == "The number of steps, over two lines."
    assert docs["seed"] == "Seed of the noise."
    assert "undocumented" not in docs
    assert {item.name for item in fields(SamplingConfig)} <= field_docs(SamplingConfig).keys()


def test_a_call_of_the_pipeline_lists_every_setting() -> None:
    parameters = inspect.signature(PurrceptionPipeline.__call__).parameters
    names = [item.name for item in fields(SamplingConfig)]
    assert list(parameters)[:3] == ["self", "class_labels", "num_images"]
    assert list(parameters)[-len(names) :] == names
    for name in names:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default is None  # the scheduler's


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


SAMPLE, EVALUATE, SWEEP = (VERBS[name] for name in ("sample", "evaluate", "sweep"))


def test_a_command_takes_a_setting_under_its_name_and_those_it_had_before() -> None:
    now = ["--steps", "7", "--guidance", "1.5", "--timestep-spacing", "cosine", "--eta", "0.2", "--redraw"]
    before = ["--num_inference_steps=7", "--guidance-scale", "1.5", "--grid", "cosine", "--strength", "0.2"]
    sampling = parse(SampleOptions, SAMPLE, now).sampling
    assert type(sampling) is SamplingConfig
    assert sampling == SamplingConfig(7, timestep_spacing="cosine", guidance_scale=1.5, eta=0.2, redraw=True)
    assert parse(SampleOptions, SAMPLE, [*before, "--redraw"]).sampling == sampling
    assert parse(SweepOptions, SWEEP, ["--grids", "cosine"]).space.timestep_spacings == ("cosine",)


def test_what_an_option_is_called_by_an_edit_is_not_what_the_sampler_called_so() -> None:
    options = parse(VaryOptions, VERBS["edit vary"], ["--strength", "0.3", "--eta", "0.2"])
    assert (options.strength, options.sampling.eta) == (0.3, 0.2)


def test_options_that_are_left_out_take_the_given_defaults() -> None:
    own = replace(parse(SampleOptions, SAMPLE, []), sampling=SamplingConfig(9, temperature="linear:1:0.7"))
    assert parse(SampleOptions, SAMPLE, ["--eta", "0.1"], own) == replace(
        own, sampling=replace(own.sampling, eta=0.1)
    )


def test_evaluate_takes_every_setting_but_the_guidance_that_it_varies() -> None:
    arguments = ["--top-k", "3", "--last-step", "argmax", "--tolerance", "0.1", "--classifier.steps", "2"]
    options = parse(EvaluateOptions, EVALUATE, [*arguments, "--classifier", "mine.safetensors"])
    assert options.sampling == SamplingConfig(top_k=3, last_step="argmax", tolerance=0.1)
    assert (options.evaluation.classifier.steps, options.procedure.classifier) == (2, "mine.safetensors")
    for unknown, nearest in (("--guidance", "--guidances"), ("--classifier.stepz", "--classifier.steps")):
        with pytest.raises(InputError, match=rf"unknown option '{unknown}': did you mean '{nearest}'\?"):
            parse(EvaluateOptions, EVALUATE, [unknown, "3"])
