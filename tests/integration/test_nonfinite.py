"""Losses and gradients that are not finite: skipped, counted, and too many in a row end the run with a name."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.integration.harness import BRIGHTNESS, Faulty, Notices, adapter, records, tiny
from torch import Tensor

import vader
from vader.runs import checkpoint
from vader.runs.folder import step_folder
from vader.runs.train_step import Counters, TrainStep
from vader.spec import TrainSpec
from vader.weights import lora

NAN, INF = float("nan"), float("inf")


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    """One micro-step an optimizer step, so that calls of the reward are optimizer steps; a checkpoint after each."""
    made = tiny(folder, train={"gradient_accumulation": 1, "checkpoint_every": 1, "warmup_steps": 0})
    made["rewards"] = []
    for section, change in changes.items():
        made[section] = {**made[section], **change}
    return made


def tensors(folder: Path, step: int) -> dict[str, Tensor]:
    return adapter(folder / "checkpoints" / step_folder(step) / "adapter")


def moved(folder: Path, step: int) -> bool:
    """Whether an optimizer step changed the adapter."""
    before, after = tensors(folder, step - 1), tensors(folder, step)
    return any(not torch.equal(before[name], after[name]) for name in before)


def state(folder: Path, step: int) -> Any:
    path = folder / "checkpoints" / step_folder(step) / "optimizer.pt"
    return torch.load(path, weights_only=True)["optimizer"]["state"]


@pytest.mark.parametrize(
    ("value", "gradient", "named"),
    [
        (NAN, False, "reward faulty = nan"),
        (INF, False, "reward faulty = inf"),
        (-INF, False, "reward faulty = -inf"),
        (NAN, True, "grad_norm = nan"),
    ],
    ids=["nan", "inf", "minus inf", "gradient only"],
)
def test_a_step_is_skipped_and_the_run_goes_on(tmp_path: Path, value: float, gradient: bool, named: str) -> None:
    folder, notices = tmp_path / "run", Notices()
    reward = Faulty([2, 4], value, gradient=gradient)
    result = vader.train(spec(folder), rewards=[reward], listeners=[notices])
    assert (result.step, result.skipped_steps, result.stopped) == (6, 2, None)
    lines = records(folder)
    assert [line["skipped"] for line in lines] == [0, 0, 1, 0, 1, 0]
    assert [line["loss"] is None for line in lines] == [not gradient and bool(line["skipped"]) for line in lines]
    assert [line["grad_norm"] is None for line in lines] == [bool(line["skipped"]) for line in lines]
    assert [moved(folder, step) for step in range(2, 7)] == [True, False, True, False, True]
    for name, tensor in tensors(folder, 6).items():
        assert tensor.isfinite().all(), name
    for before, after in zip(state(folder, 2).values(), state(folder, 3).values(), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before), "AdamW's averages and count stand still"
    assert len(notices.texts) == 2
    assert "optimizer step 3: " in notices.texts[0]
    assert named in notices.texts[0]
    assert "optimizer step 5: " in notices.texts[1]
    assert ("loss" in notices.texts[0]) == (not gradient), "only what is not finite is named"


def test_a_skipped_step_leaves_nothing_in_the_next_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 3 is skipped: step 4 has the gradient that a clean reward has there, from the same parameters."""
    seen: list[tuple[float, float]] = []
    apply = TrainStep._apply

    def recording(self: TrainStep, step: int, metrics: dict[str, float]) -> str | None:
        seen.append((step, metrics["grad_norm"]))
        return apply(self, step, metrics)

    monkeypatch.setattr(TrainStep, "_apply", recording)
    vader.train(spec(tmp_path / "a", train={"steps": 4, "schedule": "constant"}), rewards=[Faulty([2])])
    faulty = dict(seen)
    seen.clear()
    frozen = {"steps": 4, "schedule": "constant"}
    original = torch.optim.AdamW.step
    calls = iter(range(100))

    def skipping(self: Any, *arguments: Any, **named: Any) -> Any:
        return None if next(calls) == 2 else original(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", skipping)
    vader.train(spec(tmp_path / "b", train=frozen), rewards=[Faulty([])])
    clean = dict(seen)
    assert math.isnan(faulty[2])
    assert [faulty[step] for step in (0, 1, 3)] == [clean[step] for step in (0, 1, 3)]


def test_one_bad_micro_step_spoils_the_whole_optimizer_step(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = vader.train(spec(folder, train={"gradient_accumulation": 3}), rewards=[Faulty([4])])  # step 2, second
    assert result.skipped_steps == 1
    assert [line["skipped"] for line in records(folder)] == [0, 1, 0, 0, 0, 0]
    assert not moved(folder, 2)


@pytest.mark.parametrize(
    ("value", "gradient", "named"),
    [(NAN, False, "reward faulty = nan"), (INF, False, "reward faulty = inf"), (NAN, True, "grad_norm = nan")],
    ids=["nan", "inf", "gradient only"],
)
def test_too_many_in_a_row_end_the_run(tmp_path: Path, value: float, gradient: bool, named: str) -> None:
    folder = tmp_path / "run"
    reward = Faulty([1, 3, 4, 5], value, gradient=gradient)
    with pytest.raises(vader.NonFiniteError) as error:
        vader.train(spec(folder, train={"max_nonfinite": 3}), rewards=[reward])
    message = str(error.value)
    for said in (
        "optimizer step 6: ",
        named,
        "3 optimizer steps in a row",
        "train.max_nonfinite",
        "checkpoint stands",
        "learning rate",
    ):
        assert said in message, message
    last = checkpoint.newest(folder / "checkpoints", pytest.fail)
    assert last is not None
    assert last.step == 5
    assert last.manifest["counters"] == {"skipped": 3, "in_a_row": 2}
    assert all(tensor.isfinite().all() for tensor in tensors(folder, 5).values())
    assert all(torch.equal(tensors(folder, 5)[name], tensors(folder, 3)[name]) for name in tensors(folder, 5))


def test_a_run_on_reward_objects_generates(tmp_path: Path) -> None:
    """Its spec.yaml names no reward, and generation needs none."""
    folder = tmp_path / "run"
    vader.train(spec(folder, train={"steps": 2}), rewards=[Faulty([])])
    made = vader.generate(folder, ["a red circle"])
    assert made[0].frames.isfinite().all()


def test_a_gradient_that_is_not_finite_names_the_reward_it_may_come_from(tmp_path: Path) -> None:
    """Loss and scores are finite then: the message must still say which rewards were in play."""
    with pytest.raises(vader.NonFiniteError, match="faulty"):
        vader.train(spec(tmp_path / "run", train={"max_nonfinite": 1}), rewards=[Faulty(range(9), gradient=True)])


def test_only_the_reward_at_fault_is_named(tmp_path: Path) -> None:
    made = spec(tmp_path / "run", train={"max_nonfinite": 1})
    made["rewards"] = [{"name": BRIGHTNESS, "label": "innocent"}]
    with pytest.raises(vader.NonFiniteError, match="reward faulty = nan") as error:
        vader.train(made, rewards=[Faulty([1])])
    assert "innocent" not in str(error.value)


def test_the_count_in_a_row_outlives_a_resumption(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    limited = spec(folder, train={"max_nonfinite": 3, "schedule": "constant"})
    half = {**limited, "train": {**limited["train"], "steps": 4}}
    vader.train(half, rewards=[Faulty([2, 3])])
    with pytest.raises(vader.NonFiniteError, match="optimizer step 5"):
        vader.train(limited, rewards=[Faulty([0])], resume=True)
    raised = {**limited, "train": {**limited["train"], "max_nonfinite": 4}}
    result = vader.train(raised, rewards=[Faulty([0])], resume=True)
    assert (result.step, result.skipped_steps) == (6, 3)


def test_a_validation_score_that_is_not_finite_does_not_stop_the_run(tmp_path: Path) -> None:
    made = spec(tmp_path / "run", train={"steps": 2}, validation={"clips": 2, "save_clips": 0})
    result = vader.train(made, rewards=[Faulty([1, 4, 5, 6], NAN)])  # calls: 2 clips, 2 steps, 2 clips
    assert result.step == 2
    scores = [[clip.scores["faulty"] for clip in validation.clips] for validation in result.validations]
    assert [[math.isnan(score) for score in one] for one in scores] == [[False, True], [True, True]]
    text = (tmp_path / "run" / "samples" / "step-000000" / "validation.json").read_text()
    assert "NaN" not in text


def test_the_adapter_starts_finite_and_unchanged(tmp_path: Path) -> None:
    """The comparison of checkpoints means something: the reward moves them when it is finite."""
    folder = tmp_path / "run"
    vader.train(spec(folder), rewards=[Faulty([])])
    assert all(moved(folder, step) for step in range(2, 7))
    assert lora.PEFT_FILE in {path.name for path in (folder / "adapter").iterdir()}


class TestLossScaler:
    """fp16: torch's own scaler, which runs on the CPU as well; the optimizer as accelerate wraps it."""

    class Scaled:
        def __init__(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
            self._optimizer, self._scaler = optimizer, scaler

        def step(self) -> None:
            self._scaler.step(self._optimizer)
            self._scaler.update()

    def apply(self, gradient: float, loss: float) -> tuple[float, float, str | None]:
        """Two optimizer steps, the second sound: where the weight is after the first, the scale, and what was said."""
        weight = torch.nn.Parameter(torch.zeros(1))
        scaler, sgd = torch.amp.GradScaler("cpu", init_scale=8.0), torch.optim.SGD([weight], lr=1.0)
        optimization = TrainStep.__new__(TrainStep)
        optimization._spec, optimization.counters = TrainSpec(), Counters()
        optimization._engine = SimpleNamespace(scaler=scaler)  # type: ignore[assignment]
        optimization._optimizer = self.Scaled(sgd, scaler)
        said = []
        seen = []
        for slope, value in ((gradient, loss), (1.0, 0.0)):
            scaler.scale(weight.sum() * slope).backward()
            scaler.unscale_(sgd)
            assert weight.grad is not None
            said.append(optimization._apply(0, {"loss": value, "grad_norm": float(weight.grad.norm())}))
            sgd.zero_grad()
            seen.append(weight.item())
        assert seen[1] == seen[0] - 1.0, "the optimizer step after it is taken"
        return seen[0], scaler.get_scale(), said[0]

    def test_a_sound_step_is_taken(self) -> None:
        assert self.apply(2.0, 0.5) == (-2.0, 8.0, None)

    def test_a_gradient_that_overflows_is_the_scalers_business(self) -> None:
        weight, scale, said = self.apply(INF, 0.5)
        assert (weight, scale) == (0.0, 4.0)
        assert said is not None
        assert "grad_norm = inf" in said

    def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is(self) -> None:
        weight, scale, said = self.apply(2.0, NAN)
        assert (weight, scale) == (0.0, 8.0)
        assert said is not None
        assert "loss = nan" in said
