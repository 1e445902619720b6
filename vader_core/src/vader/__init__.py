"""Align text-to-video diffusion models with reward gradients (VADER, arXiv 2407.08737).

The public names, resolved when they are first used: ``import vader`` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "train": "vader.runs.training",
    "generate": "vader.runs.generation",
    "evaluate": "vader.runs.evaluation",
    "estimate": "vader.estimation.estimate",
    "fit_memory": "vader.estimation.fitting",
    "check": "vader.resolve.validate",
    "RunSpec": "vader.spec",
    "Options": "vader.spec.options",
    "Backbone": "vader.protocols",
    "Sampler": "vader.protocols",
    "Reward": "vader.protocols",
    "PromptSource": "vader.protocols",
    "Method": "vader.protocols",
    "Prompt": "vader.protocols",
    "Video": "vader.protocols",
    "Runtime": "vader.protocols",
    "Conditioning": "vader.protocols",
    "NoiseSchedule": "vader.protocols",
    "SamplerContext": "vader.protocols",
    "StepOutput": "vader.protocols",
    "Batch": "vader.protocols",
    "Loss": "vader.protocols",
    "Run": "vader.runs.events",
    "RunResult": "vader.runs.events",
    "Validation": "vader.runs.events",
    "hookimpl": "vader.runs.events",
    "VaderError": "vader.errors",
    "SpecError": "vader.errors",
    "RegistryError": "vader.errors",
    "WeightsError": "vader.errors",
    "CheckpointError": "vader.errors",
    "RunFolderError": "vader.errors",
    "LaunchError": "vader.errors",
    "ComponentError": "vader.errors",
    "NonFiniteError": "vader.errors",
}

__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from vader.errors import CheckpointError as CheckpointError
    from vader.errors import ComponentError as ComponentError
    from vader.errors import LaunchError as LaunchError
    from vader.errors import NonFiniteError as NonFiniteError
    from vader.errors import RegistryError as RegistryError
    from vader.errors import RunFolderError as RunFolderError
    from vader.errors import SpecError as SpecError
    from vader.errors import VaderError as VaderError
    from vader.errors import WeightsError as WeightsError
    from vader.estimation.estimate import estimate as estimate
    from vader.estimation.fitting import fit_memory as fit_memory
    from vader.protocols import Backbone as Backbone
    from vader.protocols import Batch as Batch
    from vader.protocols import Conditioning as Conditioning
    from vader.protocols import Loss as Loss
    from vader.protocols import Method as Method
    from vader.protocols import NoiseSchedule as NoiseSchedule
    from vader.protocols import Prompt as Prompt
    from vader.protocols import PromptSource as PromptSource
    from vader.protocols import Reward as Reward
    from vader.protocols import Runtime as Runtime
    from vader.protocols import Sampler as Sampler
    from vader.protocols import SamplerContext as SamplerContext
    from vader.protocols import StepOutput as StepOutput
    from vader.protocols import Video as Video
    from vader.resolve.validate import check as check
    from vader.runs.evaluation import evaluate as evaluate
    from vader.runs.events import Run as Run
    from vader.runs.events import RunResult as RunResult
    from vader.runs.events import Validation as Validation
    from vader.runs.events import hookimpl as hookimpl
    from vader.runs.generation import generate as generate
    from vader.runs.training import train as train
    from vader.spec import RunSpec as RunSpec
    from vader.spec.options import Options as Options


if not TYPE_CHECKING:  # who checks types sees the names above, and no others

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'vader' has no attribute {name!r}")
        return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
