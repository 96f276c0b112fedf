"""Sampling settings, and what is built from them."""

from __future__ import annotations

import pytest
import torch

from purrception.flow import SamplingConfig, Truncation, euler, uniform_timesteps
from purrception.utils.errors import InputError


def test_the_defaults_are_the_papers_sampler() -> None:
    settings = SamplingConfig(num_inference_steps=4)
    assert settings.build_timesteps() == uniform_timesteps(4)
    assert settings.build_solver(None) is euler
    assert settings.build_truncation() == Truncation()
    assert settings.posterior_settings() == {}


def test_the_model_is_evaluated_as_the_settings_say_at_each_time() -> None:
    settings = SamplingConfig(
        temperature="linear:1.0:0.5", top_k=3, guidance_scale=2.0, guidance_interval=(0.0, 0.5)
    )
    uniforms = torch.rand(1, 2, 2)
    early, late = settings.options_at(0.0, uniforms), settings.options_at(1.0)
    assert (early.temperature, late.temperature) == (1.0, 0.5)
    assert early.truncation == Truncation(top_k=3)
    assert (early.guidance.passes_at(0.0), late.guidance.passes_at(1.0)) == (2, 1)
    assert early.uniforms is uniforms
    assert late.uniforms is None


def test_settings_of_a_posterior_are_named_where_they_are_not_neutral() -> None:
    assert SamplingConfig(temperature="constant:1.0").posterior_settings() == {}
    found = SamplingConfig(temperature=0.8, top_p=0.9, last_step="draw", eta=0.2).posterior_settings()
    assert found == {"temperature": 0.8, "top_p": 0.9, "last_step": "draw"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("solver", "eulr", "did you mean 'euler'"),
        ("timestep_spacing", "cosin", "did you mean 'cosine'"),
        ("last_step", "argmx", "did you mean 'argmax'"),
        ("temperature", -1.0, "positive"),
        ("top_p", 0.0, "top_p"),
        ("num_inference_steps", 0, "at least 1 step"),
        ("eta", 2.0, "eta is between 0"),
        ("tolerance", 0.0, "rtol is a positive number"),
    ],
)
def test_what_cannot_be_built_is_refused_at_once(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingConfig(**{name: value})  # type: ignore[arg-type]
