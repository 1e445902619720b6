"""MixGRPO against its formulas in float64: noise in a window alone, which moves (arXiv 2507.21802)."""

from __future__ import annotations

from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from tests.integration.harness import merged, tiny
from tests.method_context import PROMPTS, SEEDS, STEPS, VIDEO, Constant, backbone, batch, context, gradient, nudge
from tests.unit.test_ddpo import density, reference_step
from torch import Tensor

import vader
from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.flow_euler import FlowEuler
from vader.errors import SpecError
from vader.methods.mixgrpo import MixGRPO
from vader.protocols import Prediction, SamplerContext

CLIP = 2e-3
DEFAULTS = {"group_size": 2, "window": 2, "every": 1, "min_std": 0.0, "clip_range": CLIP}


def method(made: Any, where: Any = None, **options: Any) -> MixGRPO:
    return MixGRPO(MixGRPO.Options(**{**DEFAULTS, **options}), where or context(made))


def walked(losses: Any, made: Any) -> tuple[float, Tensor, list[Any]]:
    seen, slopes = [], []
    for loss in losses:
        seen.append(loss)
        slopes.append(gradient(loss.value, made))
    return sum(float(loss.value.detach()) for loss in seen), torch.stack(slopes).sum(0), seen


def plain_step(made: Any, i: int, x: Tensor, given: Any, times: Tensor) -> Tensor:
    """A step without noise: DDIM's, or Euler's of a flow."""
    at = times[i].expand(len(x))
    yes, no = (made.predict(made.denoiser, x, at, branch) for branch in (given.positive, given.negative))
    output = no + 1.5 * (yes - no)
    if made.schedule.prediction == "flow":
        levels = [*(times.double() / 1000).tolist(), 0.0]
        return x + (levels[i + 1] - levels[i]) * output
    alphas = made.schedule.alphas_cumprod
    a, b = alphas[times[i]], alphas[times[i + 1]] if i + 1 < STEPS else alphas[0]
    return b.sqrt() * (x - (1 - a).sqrt() * output) / a.sqrt() + (1 - b).sqrt() * output


def reference(made: Any, window: list[int]) -> tuple[list[Tensor], dict[int, Tensor], list[float]]:
    """The trajectory with noise in the window alone, log-probabilities there, and rewards."""
    given, times = batch(made).conditioning, context(made).sampler.timesteps
    draws = [torch.Generator().manual_seed(seed) for seed in SEEDS]

    def noise() -> Tensor:
        return torch.stack([torch.randn(made.latent_shape(VIDEO), generator=g, dtype=torch.float64) for g in draws])

    path, logs = [noise()], {}
    for i in range(STEPS):
        fresh = noise()
        if i not in window:
            path.append(plain_step(made, i, path[-1], given, times))
            continue
        mean, std = reference_step(made, i, path[-1], given, times)
        path.append(mean + std * fresh)
        logs[i] = density(path[-1], mean, std)
    return path, logs, [-2.0 * abs(float(clip.mean()) - 1.0) for clip in made.decode(path[-1], [0, 1])]


def surrogate(made: Any, path: list[Tensor], logs: dict[int, Tensor], rewards: list[float]) -> Tensor:
    """PPO's clipped surrogate of advantages within each prompt's clips, over the window."""
    given, times, terms = batch(made).conditioning, context(made).sampler.timesteps, []
    for i, old in logs.items():
        mean, std = reference_step(made, i, path[i], given, times)
        now = density(path[i + 1], mean, std)
        for row, prompt in enumerate(PROMPTS):
            own = [reward for text, reward in zip(PROMPTS, rewards, strict=True) if text == prompt]
            advantage = (rewards[row] - fmean(own)) / (pstdev(own) + 1e-6)
            ratio = ((now[row] - old[row].detach()) / path[0][0].numel()).exp()
            terms.append(torch.minimum(advantage * ratio, advantage * ratio.clamp(1 - CLIP, 1 + CLIP)))
    return -torch.stack(terms).mean()


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
@pytest.mark.parametrize("update", [0, 1])
def test_loss_and_gradient_equal_the_reference(prediction: Prediction, update: int) -> None:
    made, given = backbone(prediction), batch(backbone(prediction))
    with torch.no_grad():
        path, logs, rewards = reference(made, [0, 1])
    ours = method(made, reuse=2)
    value, slope, found = walked(ours.losses([given], 0), made)
    assert all(loss.metrics["mixgrpo/ratio_deviation"] < 1e-12 for loss in found)
    if update:
        nudge(made)
        value, slope, found = walked(ours.losses([given], 1), made)
        assert 0 < sum(float(loss.metrics["mixgrpo/clip_fraction"]) for loss in found) < 2, "both cases are met"
    assert found[0].reward.tolist() == pytest.approx(rewards, rel=1e-9)
    expected = surrogate(made, path, logs, rewards)
    assert value == pytest.approx(float(expected.detach()), rel=1e-8, abs=1e-12)
    wanted = gradient(expected, made)
    assert wanted.norm() > 1e-4
    torch.testing.assert_close(slope, wanted, rtol=1e-7, atol=1e-12)


def test_without_a_preference_the_gradient_is_zero() -> None:
    made = backbone("flow")
    slope = walked(method(made, context(made, reward=Constant())).losses([batch(made)], 0), made)[1]
    assert torch.equal(slope, torch.zeros_like(slope))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 0, 1]),  # of four steps three have noise in a flow's window of one to the clean end
        ({"every": 2}, [0, 0, 1, 1, 2]),
        ({"stride": 2}, [0, 2, 0, 2, 0]),
        ({"window": 2}, [0, 1, 0, 1, 0]),
    ],
)
def test_the_window_moves_towards_the_clean_end_and_begins_anew(options: dict[str, Any], expected: list[int]) -> None:
    made = backbone("flow")
    ours = method(made, **{"window": 1, **options})
    first = [walked(ours.losses([batch(made)], 0), made)[2][0].metrics["mixgrpo/window"] for _ in range(5)]
    assert first == expected


def test_a_window_is_drawn_for_each_batch_as_in_flow_grpo_fast() -> None:
    made = backbone("flow")
    ours = method(made, window=1, moves="random", reuse=2)
    given = [batch(made), batch(made)]
    for index, one in enumerate(given):
        one.rng.seed(index)
    losses = [walked(ours.losses(given, update), made)[2] for update in (0, 1)]
    windows = [[loss.metrics["mixgrpo/window"] for loss in found] for found in losses]
    assert windows[0] == windows[1], "an optimizer step on the same clips has the same windows"
    seen = set()
    for seed in range(12):
        given[0].rng.seed(seed)
        seen.add(walked(ours.losses(given[:1], 0), made)[2][0].metrics["mixgrpo/window"])
    assert seen == {0.0, 1.0, 2.0}


def test_what_a_clip_costs() -> None:
    """One rollout, and a call with gradient for each step of the window."""
    made = backbone("flow")
    predict, calls = made.predict, {True: 0, False: 0}

    def counting(*arguments: Any) -> Tensor:
        calls[torch.is_grad_enabled()] += 1
        return predict(*arguments)

    made.predict = counting  # type: ignore[method-assign]
    walked(method(made).losses([batch(made)], 0), made)
    assert calls == {False: STEPS, True: 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler": {"eta": 0}}, "sampler.eta: method mixgrpo needs noise in every step"),
        (
            {"sampler": {"name": "diffusers", "options": {"scheduler": "DDIMScheduler"}}},
            "sampler.name: method mixgrpo needs single steps with noise",
        ),
        ({"method": {"options": {"window": 9}}}, "method.options.window: 9 is more than sampler.steps = 3"),
        ({"method": {"options": {"group_size": 3}}}, "train.batch_size: an optimizer step makes 4 clips"),
        ({"rollout": {"coarse_steps": 2}}, "rollout: method mixgrpo trains the very steps"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_load(changes: dict[str, Any], said: str) -> None:
    fine = {
        "method": {"name": "mixgrpo", "options": {"group_size": 4, "window": 1}},
        "sampler": {"eta": 0.7},
        "gradient": {"mode": "last"},
        "train": {"batch_size": 2},
        "backbone": {"adapter": {"dropout": 0.0}},
    }
    assert vader.check(tiny("unused", **fine)).method.name == "mixgrpo"
    with pytest.raises(vader.SpecError) as refused:
        vader.check(merged(tiny("unused", **fine), changes))
    assert said in str(refused.value)


def test_a_window_that_has_no_place_is_refused() -> None:
    with pytest.raises(SpecError, match=r"window of 4 steps has no place: .* in 3 of its 4 steps"):
        method(backbone("flow"), window=4)


def test_the_deterministic_twin_has_the_same_timesteps() -> None:
    for kind, prediction in ((FlowEuler, "flow"), (DDIM, "epsilon")):
        schedule = backbone(prediction).schedule  # type: ignore[arg-type]
        one, other = (
            kind(kind.Options(), SamplerContext(schedule, 5, eta, VIDEO, torch.device("cpu"))) for eta in (0, 1)
        )
        assert torch.equal(one.timesteps, other.timesteps)
