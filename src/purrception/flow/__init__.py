"""Variational flow matching as pure tensors and callables: no network, no files.

paths · posterior · truncation · temperature · evidence · guidance · timesteps · solvers · objectives
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.flow.conditioning import AUTOMATIC, CONDITIONINGS, KnownCodes
    from purrception.flow.evidence import Evidence
    from purrception.flow.guidance import Guidance
    from purrception.flow.last_step import LAST_STEPS, get_last_step
    from purrception.flow.limits import SPACES
    from purrception.flow.nearest import nearest_codes
    from purrception.flow.network import (
        HeadLosses,
        Losses,
        Network,
        PosteriorHead,
        PredictionOptions,
        SiteLosses,
        VectorHead,
    )
    from purrception.flow.objectives import OBJECTIVES, build_objective
    from purrception.flow.objectives.base import (
        Draws,
        Generation,
        Objective,
        Prediction,
        State,
        StepEnd,
        TrainingBatch,
        Watcher,
        no_watcher,
    )
    from purrception.flow.objectives.cfm import CFM, CFMEndpoint
    from purrception.flow.objectives.dfm import DFM
    from purrception.flow.objectives.gaussian import GaussianObjective
    from purrception.flow.objectives.purrception import Purrception
    from purrception.flow.paths import LinearPath, PathSample
    from purrception.flow.posterior import Posterior, PosteriorSums, TopCodes, draw_codes, posterior_from_logits
    from purrception.flow.settings import ObjectiveConfig, SamplingConfig
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
    from purrception.flow.truncation import Truncation, truncate

__getattr__, __dir__ = lazy_names(__name__)
__all__ = [
    "AUTOMATIC",
    "CFM",
    "CONDITIONINGS",
    "DFM",
    "LAST_STEPS",
    "OBJECTIVES",
    "SOLVERS",
    "SPACES",
    "SPACINGS",
    "CFMEndpoint",
    "Draws",
    "Evidence",
    "GaussianObjective",
    "Generation",
    "Guidance",
    "HeadLosses",
    "KnownCodes",
    "LinearPath",
    "Losses",
    "Network",
    "Objective",
    "ObjectiveConfig",
    "PathSample",
    "Posterior",
    "PosteriorHead",
    "PosteriorSums",
    "Prediction",
    "PredictionOptions",
    "Purrception",
    "SamplingConfig",
    "SiteLosses",
    "SolverOptions",
    "State",
    "StepEnd",
    "TemperatureSchedule",
    "TimeSampling",
    "Timesteps",
    "TopCodes",
    "TrainingBatch",
    "Truncation",
    "VectorHead",
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
    "no_watcher",
    "posterior_from_logits",
    "shifted_timesteps",
    "stochastic",
    "truncate",
    "uniform_timesteps",
]
