"""DDPO against a small reference written from the formulas, in float64."""

from __future__ import annotations

import math
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from tests.method_context import (
    CPU,
    PROMPTS,
    SEEDS,
    STEPS,
    VIDEO,
    Constant,
    backbone,
    batch,
    context,
    gradient,
    nudge,
    trained,
)
from torch import Tensor

from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.flow_euler import FlowEuler
from vader.errors import SpecError
from vader.methods.advantages import PromptStatistics
from vader.methods.ddpo import DDPO
from vader.methods.policy import log_probability
from vader.protocols import Prediction, SamplerContext

CLIP = 2e-3
DEFAULTS = {"group_size": 2, "min_count": 2, "min_std": 0.0, "clip_range": CLIP}


def method(made: Any, where: Any = None, **options: Any) -> DDPO:
    return DDPO(DDPO.Options(**{**DEFAULTS, **options}), where or context(made))


def total(losses: list[Any]) -> Tensor:
    return torch.stack([loss.value for loss in losses]).sum()


def guided(made: Any, x: Tensor, t: Tensor, given: Any) -> Tensor:
    yes, no = (made.predict(made.denoiser, x, t, branch) for branch in (given.positive, given.negative))
    return no + 1.5 * (yes - no)


def reference_step(made: Any, i: int, x: Tensor, given: Any, times: Tensor) -> tuple[Tensor, float]:
    """Mean and standard deviation of the next latents: DDIM (arXiv 2010.02502, eq. 12, 16) with eta 1, or its flow."""
    output = guided(made, x, times[i].expand(len(x)), given)
    if made.schedule.prediction == "flow":
        levels = [float(t) / 1000 for t in times] + [0.0]
        s, r = levels[i], levels[i + 1]
        clean, noise = x - s * output, x + (1 - s) * output
        if r == 0:
            return clean, 0.0
        # the posterior of N(x_r; (1 - r) clean, r^2) given x_s = (1-s)/(1-r) x_r + N(0, v)
        a = (1 - s) / (1 - r)
        v = s**2 - a**2 * r**2
        variance = 1 / (1 / r**2 + a**2 / v)
        return (1 - r) * clean + math.sqrt(r**2 - variance) * noise, math.sqrt(variance)
    alphas = made.schedule.alphas_cumprod
    a = float(alphas[times[i]])
    b = float(alphas[times[i + 1]]) if i + 1 < STEPS else float(alphas[0])
    std = math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
    clean = (x - math.sqrt(1 - a) * output) / math.sqrt(a)
    return math.sqrt(b) * clean + math.sqrt(1 - b - std**2) * output, std


def density(value: Tensor, mean: Tensor, std: float) -> Tensor:
    return torch.distributions.Normal(mean, std).log_prob(value).flatten(1).sum(1)


def reference_sample(made: Any, given: Any, times: Tensor) -> tuple[list[Tensor], list[Tensor | None], list[float]]:
    """Trajectory, log-probabilities and rewards."""
    draws = [torch.Generator().manual_seed(seed) for seed in SEEDS]

    def noise() -> Tensor:
        return torch.stack([torch.randn(made.latent_shape(VIDEO), generator=g, dtype=torch.float64) for g in draws])

    path, logs = [noise()], []
    for i in range(STEPS):
        mean, std = reference_step(made, i, path[-1], given, times)
        path.append(mean + std * noise())
        logs.append(density(path[-1], mean, std) if std else None)
    frames = made.decode(path[-1], [0, 1])
    return path, logs, [-2.0 * abs(float(clip.detach().mean()) - 1.0) for clip in frames]


def reference_loss(made: Any, given: Any, times: Tensor, path: list[Tensor], logs: Any, rewards: list[float]) -> Tensor:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7) of advantages within each prompt's clips."""
    terms = []
    elements = path[0][0].numel()
    for i in range(STEPS):
        if logs[i] is None:
            continue
        mean, std = reference_step(made, i, path[i], given, times)
        now = density(path[i + 1], mean, std)
        for row, prompt in enumerate(PROMPTS):
            own = [reward for text, reward in zip(PROMPTS, rewards, strict=True) if text == prompt]
            advantage = (rewards[row] - fmean(own)) / (pstdev(own) + 1e-6)
            ratio = ((now[row] - logs[i][row].detach()) / elements).exp()
            clipped = min(max(float(ratio.detach()), 1 - CLIP), 1 + CLIP)
            plain, cut = advantage * ratio, advantage * clipped
            terms.append(plain if float(plain.detach()) <= cut else torch.tensor(cut, dtype=torch.float64))
    return -torch.stack(terms).mean()


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
@pytest.mark.parametrize("update", [0, 1])
def test_loss_and_gradient_equal_the_reference(prediction: Prediction, update: int) -> None:
    made = backbone(prediction)
    chosen, given = context(made), batch(made)
    times = chosen.sampler.timesteps
    with torch.no_grad():
        path, logs, rewards = reference_sample(made, given.conditioning, times)
    ours = method(made, chosen, inner_epochs=2)
    first = list(ours.losses([given], 0))
    losses = first
    if update:
        nudge(made)
        losses = list(ours.losses([given], 1))
        assert 0 < sum(loss.metrics["ddpo/clip_fraction"] for loss in losses) / len(losses) < 1, "both cases are met"
    expected = reference_loss(made, given.conditioning, times, path, logs, rewards)
    assert losses[0].reward.tolist() == pytest.approx(rewards, rel=1e-9)
    assert float(total(losses).detach()) == pytest.approx(float(expected.detach()), rel=1e-8, abs=1e-12)
    wanted = gradient(expected, made)
    assert wanted.norm() > 1e-4
    torch.testing.assert_close(gradient(total(losses), made), wanted, rtol=1e-7, atol=1e-12)


def test_the_gradient_raises_the_probability_of_better_clips() -> None:
    """Finite differences: a small step along minus the gradient raises log-probabilities weighted by advantages."""
    made = backbone()
    ours, given = method(made, inner_epochs=2), batch(made)
    direction = gradient(total(list(ours.losses([given], 0))), made)
    moved = []
    for sign in (-1.0, 1.0):
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(trained(made)).detach() + sign * 1e-4 * direction, trained(made)
        )
        moved.append(float(total(list(ours.losses([given], 1))).detach()))
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(trained(made)).detach() - sign * 1e-4 * direction, trained(made)
        )
    slope = (moved[1] - moved[0]) / 2e-4
    assert slope == pytest.approx(float(direction.square().sum()), rel=1e-4)


def test_without_a_preference_the_gradient_is_zero() -> None:
    made = backbone()
    losses = list(method(made, context(made, reward=Constant())).losses([batch(made)], 0))
    found = gradient(total(losses), made)
    assert torch.equal(found, torch.zeros_like(found))


def test_the_first_update_is_on_policy() -> None:
    made = backbone()
    for loss in method(made).losses([batch(made)], 0):
        assert loss.metrics["ddpo/ratio_deviation"] < 1e-12
        assert loss.metrics["ddpo/clip_fraction"] == 0


def test_the_divergence_is_half_the_squared_distance_from_the_base() -> None:
    made, base = backbone(), backbone(adapted=None)
    given, weight = batch(made), 0.7
    plain = list(method(made).losses([given], 0))
    held = list(method(made, kl_weight=weight).losses([given], 0))
    for i, (one, other) in enumerate(zip(plain, held, strict=True)):
        assert other.metrics["kl"] > 0
        extra = float((other.value - one.value).detach()) * len(plain)
        assert extra == pytest.approx(weight * float(other.metrics["kl"]), rel=1e-9), i
    chosen = context(made)
    path, *_ = reference_sample(made, given.conditioning, chosen.sampler.timesteps)
    at = chosen.sampler.timesteps[0].expand(len(SEEDS))
    with torch.no_grad():
        difference = guided(made, path[0], at, given.conditioning) - guided(base, path[0], at, given.conditioning)
    assert float(held[0].metrics["kl"]) == pytest.approx(float(difference.square().mean() / 2), rel=1e-9)


class TestLogProbability:
    @pytest.mark.parametrize("sampler", ["ddim", "flow"])
    def test_integrates_to_one(self, sampler: str) -> None:
        """Over all next latents of one element, for every step that has noise."""
        made = backbone("flow" if sampler == "flow" else "epsilon")
        kind: Any = FlowEuler if sampler == "flow" else DDIM
        steps = kind(kind.Options(), SamplerContext(made.schedule, 6, 0.8, VIDEO, CPU))
        x = torch.full((1, 1, 1, 1, 1), 0.3, dtype=torch.float64)
        seen = 0
        for i in range(6):
            step = steps.step(torch.tanh(x), i, x, torch.zeros_like(x))
            if step.std == 0:
                continue
            seen += 1
            grid = (step.mean + step.std * torch.linspace(-12, 12, 20001, dtype=torch.float64)).reshape(-1, 1, 1, 1, 1)
            found = torch.trapezoid(log_probability(grid, step.mean, step.std).exp(), grid.flatten())
            assert float(found) == pytest.approx(1.0, abs=1e-9)
        assert seen >= 5

    def test_is_the_sum_over_elements(self) -> None:
        drawn = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = log_probability(drawn, torch.zeros_like(drawn), torch.tensor(0.7))
        torch.testing.assert_close(found, density(drawn, torch.zeros_like(drawn), 0.7), rtol=1e-7, atol=0)

    def test_half_precision_is_widened(self) -> None:
        drawn = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
        assert log_probability(drawn, torch.zeros_like(drawn), torch.tensor(1.0).bfloat16()).dtype == torch.float32


class TestPromptStatistics:
    def test_each_prompt_has_its_own(self) -> None:
        statistics = PromptStatistics(buffer_size=8, min_count=2)
        prompts, rewards = ["a", "a", "b", "b"], [1.0, 3.0, 10.0, 10.5]
        statistics.remember(prompts, rewards)
        found = statistics.advantages(prompts, rewards, rewards)
        assert found == pytest.approx([-1.0, 1.0, -1.0, 1.0], abs=1e-4)

    def test_a_rare_prompt_is_judged_by_its_round(self) -> None:
        statistics = PromptStatistics(buffer_size=8, min_count=3)
        whole = [0.0, 2.0, 4.0]
        statistics.remember(["a", "b", "b"], whole)
        assert statistics.advantages(["a"], [0.0], whole) == pytest.approx([(0 - 2) / pstdev(whole)], abs=1e-5)

    def test_old_rewards_are_forgotten(self) -> None:
        statistics = PromptStatistics(buffer_size=2, min_count=2)
        for reward in (100.0, 1.0, 3.0):
            statistics.remember(["a"], [reward])
        assert statistics.advantages(["a"], [3.0], [3.0]) == pytest.approx([1.0], abs=1e-5)

    def test_a_reward_that_is_not_finite_is_not_remembered(self) -> None:
        statistics = PromptStatistics(buffer_size=4, min_count=2)
        statistics.remember(["a", "a", "a"], [1.0, math.nan, 3.0])
        assert statistics.advantages(["a"], [3.0], [3.0]) == pytest.approx([1.0], abs=1e-5)

    def test_the_state_is_all_of_it(self) -> None:
        one, other = PromptStatistics(4, 2), PromptStatistics(4, 2)
        one.remember(["a", "a"], [1.0, 2.0])
        other.load_state_dict(one.state_dict())
        other.remember(["a"], [5.0])
        assert one.advantages(["a"], [1.0], [1.0]) == pytest.approx([-1.0], abs=1e-5), "no list is shared"
        assert other.advantages(["a"], [5.0], [5.0])[0] == pytest.approx((5 - 8 / 3) / pstdev([1, 2, 5]), abs=1e-5)


def test_advantages_compare_the_rewards_of_every_process() -> None:
    """The other process's clips of the prompt were far better: here the best is below the mean as well."""
    made = backbone()
    theirs = [(prompt, 50.0) for prompt in PROMPTS for _ in range(2)]
    alone, together = (method(made, context(made, gather=gather)) for gather in (list, lambda mine: [*mine, *theirs]))
    given = batch(made)
    signs = []
    for one in (alone, together):
        next(one.losses([given], 0))
        signs.append([float(a) > 0 for a in one._rounds[0].advantages])
    assert sorted(signs[0]) == [False, False, True, True]
    assert signs[1] == [False] * 4


def test_train_steps_are_drawn_from_the_noisy_ones() -> None:
    made = backbone("flow")
    ours = method(made, train_steps=2)
    assert ours.passes == 2
    given, seen = batch(made), set()
    for _ in range(60):
        drawn = ours._drawn(given.rng)
        assert len(drawn) == 2
        seen |= set(drawn)
    assert seen == {0, 1, 2}, "the last step of a flow has no noise"


def test_steps_with_too_little_noise_are_left_out() -> None:
    """The flow's third step goes to sigma 0.001, with that standard deviation."""
    made = backbone("flow")
    assert method(made, min_std=0.0005)._noisy == [0, 1, 2]
    assert method(made, min_std=0.01)._noisy == [0, 1]


@pytest.mark.parametrize(("options", "eta"), [({"train_steps": 4}, 1.0), ({}, 0.0)])
def test_more_steps_than_have_noise_are_refused(options: dict[str, Any], eta: float) -> None:
    made = backbone("flow")
    with pytest.raises(
        SpecError, match=r"train_steps.*cannot be trained: the sampler adds noise of .* in [03] of its 4 steps"
    ):
        method(made, context(made, eta=eta), **options)
