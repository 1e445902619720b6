"""The reward gradient's options: re-noised last steps and the divergence from the base, in float64."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from tests.method_context import PROMPTS, SEEDS, STEPS, VIDEO, backbone, batch, context, gradient, trained
from torch import Tensor

from vader import Prompt
from vader.diffusion.gradient import window
from vader.diffusion.seeding import derive
from vader.methods.reward_gradient import RewardGradient
from vader.protocols import Prediction


def losses(made: Any, where: Any, **options: Any) -> list[Any]:
    return list(RewardGradient(RewardGradient.Options(**options), where).losses([batch(made)], 0))


def guided(made: Any, x: Tensor, t: Tensor) -> Tensor:
    given = made.encode([*map(Prompt, PROMPTS)])
    yes = made.predict(made.denoiser, x, t, given.positive)
    no = made.predict(made.denoiser, x, t, given.negative)
    return no + 1.5 * (yes - no)


def judged(made: Any, clean: Tensor) -> Tensor:
    return -2.0 * (made.decode(clean, [0, 1]).mean((1, 2, 3, 4)) - 1.0).abs()


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
@pytest.mark.parametrize("draws", [1, 3])
def test_renoised_last_steps_equal_the_full_chain_with_detaches(prediction: Prediction, draws: int) -> None:
    """DRaFT-LV (arXiv 2309.17400, algorithm 2): noised to the last step, predicted clean, judged, averaged."""
    made = backbone(prediction)
    where = context(made, eta=0.0, renoise=draws)
    found = losses(made, where)
    assert len(found) == draws
    with torch.no_grad():
        clean = where.sample(batch(made).conditioning, SEEDS, window("last", STEPS)(batch(made).rng))
    time = where.sampler.timesteps[-1]
    sigma = float(time) / 1000 if prediction == "flow" else math.sqrt(1 - float(made.schedule.alphas_cumprod[time]))
    signal = 1 - sigma if prediction == "flow" else math.sqrt(1 - sigma**2)
    terms = []
    for draw in range(draws):
        seeds = [derive(seed, "renoise", draw) for seed in SEEDS]
        drawn = [
            torch.randn(made.latent_shape(VIDEO), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            for seed in seeds
        ]
        x = signal * clean + sigma * torch.stack(drawn)
        output = guided(made, x, time.expand(len(x)))
        terms.append(
            -judged(made, x - sigma * output if prediction == "flow" else (x - sigma * output) / signal).mean()
        )
    expected = torch.stack(terms).mean()
    total = torch.stack([loss.value for loss in found]).sum()
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    wanted = gradient(expected, made)
    assert wanted.norm() > 1e-5
    torch.testing.assert_close(gradient(total, made), wanted, rtol=1e-7, atol=1e-13)


def test_divergence_and_its_gradient_equal_the_formula() -> None:
    """Half the mean squared difference of guided predictions at one step's latents, which are not differentiated."""
    made, base = backbone(), backbone(adapted=None)
    where = context(made, eta=0.0, draw=window("tail", STEPS, k=2))
    (plain,), (held,) = losses(made, where), losses(made, where, kl_weight=0.5)
    visited: list[Tensor] = []
    with torch.no_grad():
        where.sample(
            batch(made).conditioning, SEEDS, window("last", STEPS)(batch(made).rng), lambda i, x, _: visited.append(x)
        )
    candidates = []
    for x, time in zip(visited, where.sampler.timesteps, strict=True):
        at = time.expand(len(x))
        candidates.append((guided(made, x, at) - guided(base, x, at).detach()).square().mean() / 2)
    near = [float(one.detach()) == pytest.approx(float(held.metrics["kl"]), rel=1e-9) for one in candidates]
    assert sum(near) == 1, "the divergence is that of one of the steps"
    divergence = candidates[near.index(True)]
    expected = plain.value + 0.5 * divergence
    assert float(held.value.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert gradient(divergence, made).norm() > 1e-5
    torch.testing.assert_close(gradient(held.value, made), gradient(expected, made), rtol=1e-7, atol=1e-13)


def test_every_step_is_visited_by_the_divergence() -> None:
    made = backbone()
    where, seen = context(made, eta=0.0), Counter[float]()
    method, given = RewardGradient(RewardGradient.Options(kl_weight=1.0), where), batch(made)
    for _ in range(60):
        (loss,) = method.losses([given], 0)
        seen[round(float(loss.metrics["kl"]), 9)] += 1
    assert len(seen) == STEPS
    assert min(seen.values()) >= 5


def test_without_an_adapter_there_is_no_divergence() -> None:
    made = backbone(adapted=0.0)
    (loss,) = losses(made, context(made), kl_weight=1.0)
    assert loss.metrics["kl"] == 0.0


def test_the_base_is_the_model_without_its_adapter_bit_for_bit() -> None:
    made, base = backbone(), backbone(adapted=None)
    where, given = context(made), batch(made)
    with torch.no_grad():
        x = where.noise(SEEDS).draw()
        plain = context(base).predict_at(given.conditioning, x, 0, recompute=False)
        adapted = where.predict_at(given.conditioning, x, 0, recompute=False)
        with where.base():
            assert torch.equal(where.predict_at(given.conditioning, x, 0, recompute=False), plain)
        assert torch.equal(where.predict_at(given.conditioning, x, 0, recompute=False), adapted)
    assert not torch.equal(adapted, plain)
    assert trained(made), "switching off does not freeze"
