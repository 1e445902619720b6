"""DPO against a small reference written from the formula, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.method_context import PROMPTS, SEEDS, Constant, backbone, batch, context, gradient
from torch import Tensor

from vader import Prompt
from vader.diffusion import noising
from vader.methods.dpo import DPO
from vader.protocols import Prediction

BETA = 3.0


@pytest.fixture
def noised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Clean latents, noise and timestep of every call that noises clips."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    add_noise = noising.add_noise

    def spy(schedule: Any, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        seen.append((clean, noise, timestep))
        return add_noise(schedule, clean, noise, timestep)

    monkeypatch.setattr(noising, "add_noise", spy)
    return seen


def method(made: Any, where: Any = None, **options: Any) -> DPO:
    return DPO(DPO.Options(**{"beta": BETA, **options}), where or context(made, eta=0.0))


def reference(made: Any, base: Any, clean: Tensor, noise: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
    """arXiv 2311.12908, eq. 14, clip by clip: two pairs, preferred ones first."""
    alphas, flow = made.schedule.alphas_cumprod, made.schedule.prediction == "flow"

    def error(model: Any, row: int) -> Tensor:
        t = timestep[row : row + 1]
        level = float(t) / 1000 if flow else math.sqrt(1 - float(alphas[int(t)]))
        signal = 1 - level if flow else math.sqrt(float(alphas[int(t)]))
        x = signal * clean[row : row + 1] + level * noise[row : row + 1]
        wanted = {
            "flow": noise - clean,
            "epsilon": noise,
            "v": signal * noise - level * clean,
        }[made.schedule.prediction][row]
        found = model.predict(model.denoiser, x, t, {"embeds": embeds[row : row + 1]})[0]
        return ((found - wanted) ** 2).mean()

    terms = []
    for winner, loser in ((0, 2), (1, 3)):
        ours = error(made, winner) - error(made, loser)
        held = error(base, winner) - error(base, loser)
        terms.append(-torch.log(torch.sigmoid(-BETA / 2 * (ours - held))))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow"])
def test_loss_and_gradient_equal_the_reference(prediction: Prediction, noised: list[tuple[Tensor, ...]]) -> None:
    made, base = backbone(prediction), backbone(prediction, adapted=None)
    given = batch(made)
    (loss,) = method(made).losses([given], 0)
    ((clean, noise, timestep),) = noised
    rewards = loss.reward.tolist()
    order = [0 if rewards[0] > rewards[1] else 1, 2 if rewards[2] > rewards[3] else 3]
    order += [1 - order[0], 5 - order[1]]
    embeds = made.encode([Prompt(PROMPTS[row]) for row in order]).positive["embeds"]
    expected = reference(made, base, clean, noise, timestep, embeds)
    assert float(loss.value.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    assert abs(float(expected.detach()) - math.log(2)) > 1e-4
    wanted = gradient(expected, made)
    assert wanted.norm() > 1e-4
    torch.testing.assert_close(gradient(loss.value, made), wanted, rtol=1e-5, atol=1e-9)


def test_with_the_adapter_at_zero_the_loss_is_log_2() -> None:
    made = backbone(adapted=0.0)
    (loss,) = method(made).losses([batch(made)], 0)
    assert float(loss.value.detach()) == pytest.approx(math.log(2), rel=1e-7)
    assert loss.metrics["dpo/decided"] == 1.0


def test_the_preferred_clip_is_the_one_with_the_higher_reward(noised: list[tuple[Tensor, ...]]) -> None:
    made = backbone()
    ours, given = method(made), batch(made)
    (loss,) = ours.losses([given], 0)
    clean = noised[0][0]
    judged = context(made).decode_and_score(clean, [0, 1], given).reward
    assert (judged[:2] > judged[2:]).all()
    assert sorted(judged.tolist()) == pytest.approx(sorted(loss.reward.tolist()), rel=1e-9)


def test_a_pair_shares_noise_and_timestep_and_pairs_do_not(noised: list[tuple[Tensor, ...]]) -> None:
    made = backbone()
    list(method(made, draws=3).losses([batch(made)], 0))
    assert len(noised) == 3
    for _, noise, timestep in noised:
        assert torch.equal(noise[:2], noise[2:])
        assert torch.equal(timestep[:2], timestep[2:])
    starts = torch.stack([noise[:2] for _, noise, _ in noised]).flatten(0, 1).flatten(1)
    assert (torch.cdist(starts, starts) + 9 * torch.eye(6)).min() > 1
    assert len({int(t) for _, _, timestep in noised for t in timestep}) == 6


def test_updates_use_the_same_clips_with_new_noise(noised: list[tuple[Tensor, ...]]) -> None:
    made = backbone()
    ours, given = method(made, inner_epochs=2), batch(made)
    (first,), (second,) = list(ours.losses([given], 0)), list(ours.losses([given], 1))
    assert torch.equal(noised[0][0], noised[1][0])
    assert not torch.equal(noised[0][1], noised[1][1])
    assert first.reward is second.reward


def test_equal_rewards_prefer_nothing() -> None:
    made = backbone()
    (loss,) = method(made, context(made, eta=0.0, reward=Constant())).losses([batch(made)], 0)
    assert loss.metrics["dpo/decided"] == 0
    assert float(gradient(loss.value, made).norm()) == 0


def test_best_and_worst_of_more_than_two(noised: list[tuple[Tensor, ...]]) -> None:
    made = backbone()
    given = batch(made, ["a red circle"] * 4, SEEDS)
    (loss,) = method(made, group_size=4).losses([given], 0)
    judged = context(made).decode_and_score(noised[0][0], [0, 1], batch(made, ["a red circle"] * 2, SEEDS[:2])).reward
    assert judged.tolist() == pytest.approx([float(loss.reward.max()), float(loss.reward.min())])


def test_along_the_gradient_the_margin_grows() -> None:
    """A small step lowers the loss on the very same noise, by as much as the gradient says."""
    made = backbone()
    ours, given = method(made, inner_epochs=2), batch(made)
    list(ours.losses([given], 0))
    (loss,) = ours.losses([given], 1)
    direction = gradient(loss.value, made)
    moved = []
    for sign in (1.0, -1.0):
        place = 0
        for parameter in [p for p in made.denoiser.parameters() if p.requires_grad]:
            part = direction[place : place + parameter.numel()].view_as(parameter)
            parameter.data.add_(sign * 1e-3 * part)
            place += parameter.numel()
        (again,) = ours.losses([given], 1)
        moved.append(float(again.value.detach()))
        place = 0
        for parameter in [p for p in made.denoiser.parameters() if p.requires_grad]:
            part = direction[place : place + parameter.numel()].view_as(parameter)
            parameter.data.add_(-sign * 1e-3 * part)
            place += parameter.numel()
    assert (moved[0] - moved[1]) / 2e-3 == pytest.approx(float(direction.square().sum()), rel=1e-4)
