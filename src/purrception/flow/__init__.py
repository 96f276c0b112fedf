"""Variational flow matching as pure tensors and callables: no network, no files.

paths · posterior operations · evidence · guidance · timesteps · solvers · objectives
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.flow.conditioning import AUTOMATIC, CONDITIONINGS, Given
    from purrception.flow.evidence import Evidence
    from purrception.flow.guidance import Guidance
    from purrception.flow.nearest import nearest_codes
    from purrception.flow.objectives import (
        CFM,
        DFM,
        OBJECTIVES,
        CFMEndpoint,
        Draws,
        GaussianObjective,
        Generation,
        HeadLosses,
        Losses,
        Network,
        Objective,
        ObjectiveConfig,
        Prediction,
        PredictionOptions,
        Purrception,
        SiteLosses,
        State,
        TrainingBatch,
        Watcher,
        build_objective,
        unwatched,
    )
    from purrception.flow.paths import LinearPath, PathSample
    from purrception.flow.posterior import (
        LAST_STEPS,
        Posterior,
        PosteriorSums,
        TopCodes,
        Truncation,
        draw_codes,
        get_last_step,
        posterior_from_logits,
        truncate,
    )
    from purrception.flow.settings import SamplingConfig
    from purrception.flow.solvers import (
        SOLVERS,
        SolverOptions,
        dopri5,
        dpmpp_2m,
        euler,
        get_solver,
        heun,
        midpoint,
        stochastic,
    )
    from purrception.flow.temperature import TemperatureSchedule, check_temperature
    from purrception.flow.timesteps import (
        SPACINGS,
        TimeSampling,
        Timesteps,
        cosine_timesteps,
        get_timesteps,
        log_snr_timesteps,
        shifted_timesteps,
        uniform_timesteps,
    )

__getattr__, __dir__ = lazy_names(__name__)
__all__ = [
    "AUTOMATIC",
    "CFM",
    "CONDITIONINGS",
    "DFM",
    "LAST_STEPS",
    "OBJECTIVES",
    "SOLVERS",
    "SPACINGS",
    "CFMEndpoint",
    "Draws",
    "Evidence",
    "GaussianObjective",
    "Generation",
    "Given",
    "Guidance",
    "HeadLosses",
    "LinearPath",
    "Losses",
    "Network",
    "Objective",
    "ObjectiveConfig",
    "PathSample",
    "Posterior",
    "PosteriorSums",
    "Prediction",
    "PredictionOptions",
    "Purrception",
    "SamplingConfig",
    "SiteLosses",
    "SolverOptions",
    "State",
    "TemperatureSchedule",
    "TimeSampling",
    "Timesteps",
    "TopCodes",
    "TrainingBatch",
    "Truncation",
    "Watcher",
    "build_objective",
    "check_temperature",
    "cosine_timesteps",
    "dopri5",
    "dpmpp_2m",
    "draw_codes",
    "euler",
    "get_last_step",
    "get_solver",
    "get_timesteps",
    "heun",
    "log_snr_timesteps",
    "midpoint",
    "nearest_codes",
    "posterior_from_logits",
    "shifted_timesteps",
    "stochastic",
    "truncate",
    "uniform_timesteps",
    "unwatched",
]
