"""The conformance kit: what a component must do to work in a run, as pytest classes, functions and ``vader check``.

As pytest classes: subclass one, give one fixture, and every check is a test::

    import pytest
    from vader.testing import RewardContract

    class TestBrightness(RewardContract):
        @pytest.fixture
        def reward(self):
            return "brightness"      # a registered name, ./file.py:Name, a class, a function, an object or a Subject

As functions: ``check_reward(Brightness)`` raises one error that says everything. On the command line:
``vader check brightness``. All of it runs on the CPU, offline, in seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "RewardContract": "vader.testing.contracts",
    "BackboneContract": "vader.testing.contracts",
    "SamplerContract": "vader.testing.contracts",
    "PromptSourceContract": "vader.testing.contracts",
    "MethodContract": "vader.testing.contracts",
    "check_reward": "vader.testing.functions",
    "check_backbone": "vader.testing.functions",
    "check_sampler": "vader.testing.functions",
    "check_prompts": "vader.testing.functions",
    "check_method": "vader.testing.functions",
    "check_all": "vader.testing.functions",
    "Subject": "vader.testing.subject",
    "Outcome": "vader.testing.checks",
    "Failed": "vader.testing.checks",
}

__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from vader.testing.checks import Failed as Failed
    from vader.testing.checks import Outcome as Outcome
    from vader.testing.contracts import BackboneContract as BackboneContract
    from vader.testing.contracts import MethodContract as MethodContract
    from vader.testing.contracts import PromptSourceContract as PromptSourceContract
    from vader.testing.contracts import RewardContract as RewardContract
    from vader.testing.contracts import SamplerContract as SamplerContract
    from vader.testing.functions import check_all as check_all
    from vader.testing.functions import check_backbone as check_backbone
    from vader.testing.functions import check_method as check_method
    from vader.testing.functions import check_prompts as check_prompts
    from vader.testing.functions import check_reward as check_reward
    from vader.testing.functions import check_sampler as check_sampler
    from vader.testing.subject import Subject as Subject


if not TYPE_CHECKING:  # who checks types sees the names above, and no others

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'vader.testing' has no attribute {name!r}")
        return getattr(importlib.import_module(_PUBLIC[name]), name)
