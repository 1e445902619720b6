"""How often an optimizer step waits for its device: once, when all its figures are read."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.fakes import FakeBackbone, FakePrompts
from tests.method_context import backbone, context, trained
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vader import Prompt
from vader.diffusion.conditioning import ConditioningCache
from vader.diffusion.gradient import window
from vader.diffusion.guidance import Recompute
from vader.methods import scoring
from vader.methods.context import PhaseTimer, RolloutContext
from vader.methods.reward_gradient import RewardGradient, RewardGradientOptions
from vader.runs.train_step import Counters, TrainStep
from vader.spec import TrainSpec

STEPS = 4


class Engine:
    """One process, without accelerate."""

    num_processes, process_index, scaler = 1, 0, None

    def __init__(self) -> None:
        self.gathered = 0

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def no_sync(self, module: Any) -> Any:
        return torch.enable_grad()

    def clip_grad_norm(self, parameters: Any, limit: float) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    def gather(self, tensor: Tensor) -> Tensor:
        self.gathered += 1
        return tensor


class Waits(TorchDispatchMode):
    """Notes what makes the host wait for its device: a number read from a tensor, and a copy to the host.

    What is read from the one copy that is wanted comes after it, and is not noted.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.read: list[str] = []
        self.allowed = False
        for name in ("cpu", "tolist", "numpy"):
            monkeypatch.setattr(Tensor, name, self._noted(name, getattr(Tensor, name)))

    def _noted(self, name: str, function: Any) -> Any:
        def noted(tensor: Tensor, *arguments: Any) -> Any:
            self.note(name)
            if name == "cpu":  # what follows is read from the copy
                self.allowed = True
            return function(tensor, *arguments)

        return noted

    def note(self, name: str) -> None:
        if not self.allowed:
            self.read.append(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.equal.default,
            torch.ops.aten.nonzero.default,
        ):
            self.note(str(func))
        return func(*args, **(kwargs or {}))


def step_of(made: FakeBackbone, where: RolloutContext, **options: Any) -> tuple[TrainStep, Engine]:
    parameters, engine = trained(made), Engine()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, foreach=True)
    spec = TrainSpec(batch_size=2, gradient_accumulation=2)
    method = RewardGradient(RewardGradientOptions(**options), where)
    encode = ConditioningCache(made, where.device)
    prompts = FakePrompts(FakePrompts.Options())
    encode([Prompt(text) for text in prompts.texts])
    arguments = (spec, engine, made.denoiser, optimizer, parameters, method, prompts, encode, Counters(), where.timer)
    return TrainStep(*arguments, where.objective), engine


@pytest.mark.parametrize("recompute", ["auto", True, False])
@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_an_optimizer_step_waits_once(recompute: Recompute, kl_weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    made = backbone()
    where = context(made, draw=window("tail", STEPS, k=2), recompute=recompute)
    step, engine = step_of(made, where, kl_weight=kl_weight)
    step.step(0)  # the optimizer's state is made
    monkeypatch.setattr(scoring, "_state", lambda seen: (seen._version, None))  # no sum is taken on a device
    with Waits(monkeypatch) as waits:
        metrics, _ = step.step(1)
    assert waits.read == ["cpu"]
    assert engine.gathered == 2
    assert {"loss", "reward", "grad_norm", "gradient/k"} <= metrics.keys()
    assert all(isinstance(value, float) for value in metrics.values())


def test_phases_are_read_late_and_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events on CUDA, here with a stand-in: nothing waits before the timer is read."""
    waited: list[int] = []

    class Event:
        made = 0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.number = -1

        def record(self, stream: Any) -> None:
            Event.made += 1
            self.number = Event.made

        def synchronize(self) -> None:
            waited.append(self.number)

        def elapsed_time(self, end: Event) -> float:
            return 1000.0 * (end.number - self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    timer = PhaseTimer(torch.device("cuda"))
    with timer("rollout"), timer("decode"):
        pass
    with timer("decode"):
        pass
    assert waited == []
    assert timer.read() == {"rollout": 3.0, "decode": 2.0}
    assert timer.read() == {}


def test_what_processes_have_spent_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the gathering that is there; what one of them does not know is left out."""
    made = backbone()
    step, engine = step_of(made, context(made))
    other = torch.tensor([5.0, math.nan])
    monkeypatch.setattr(step, "_spent", lambda: {"cost/known": 2.0, "cost/unknown": 1.0})
    monkeypatch.setattr(engine, "num_processes", 2)
    monkeypatch.setattr(engine, "gather", lambda mine: torch.cat([mine, mine[:-2], other]))
    metrics, _ = step.step(0)
    assert metrics["cost/known"] == 7.0
    assert "cost/unknown" not in metrics
