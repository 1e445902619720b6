"""Rewards that see latents: nothing is decoded for them, and they learn the timestep at which a rollout ended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.integration.harness import BRIGHTNESS, FAKES, tiny
from tests.method_context import PROMPTS, SEEDS, STEPS, backbone, batch, context, gradient
from torch import Tensor

from vader.diffusion.gradient import Window
from vader.errors import ComponentError, SpecError
from vader.methods.objective import Objective, Term
from vader.protocols import Conditioning
from vader.resolve.validate import check


class Pull:
    """Minus the distance of latents from their prompt's embedding, and the timestep it was asked at."""

    input = "latents"

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, int]] = []

    def score(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """``(b c f h w)`` -> ``(b,)``."""
        self.asked.append((timestep, len(conditioning)))
        wanted = conditioning.positive["embeds"].mean((1, 2))
        return -(latents.mean((1, 2, 3, 4)) - wanted).abs()


def without_decoder(made: Any) -> Any:
    def decode(*arguments: Any) -> Tensor:
        raise AssertionError("decoded")

    made.decode = decode
    return made


@pytest.mark.parametrize(("stop", "original"), [(1, False), (2, False), (STEPS, False), (3, True)])
def test_a_rollout_may_end_anywhere_for_them_and_nothing_is_decoded(stop: int, original: bool) -> None:
    made, reward = without_decoder(backbone("flow")), Pull()
    where = context(made, eta=0.0, reward=reward)
    window = Window(stop - 1, stop, original)
    found = where.sample_and_score(batch(made), window)
    (asked, clips), times = reward.asked[0], where.sampler.timesteps
    after = torch.zeros(()) if original or stop == STEPS else times[stop]
    assert clips == len(PROMPTS)
    assert torch.equal(asked, after.expand(len(PROMPTS)).to(asked))
    latents = where.sample(batch(made).conditioning, SEEDS, window)
    torch.testing.assert_close(found.latents, latents)
    wanted = -(latents.mean((1, 2, 3, 4)) - batch(made).conditioning.positive["embeds"].mean((1, 2))).abs()
    torch.testing.assert_close(found.reward, 2.0 * wanted)
    assert gradient(found.reward.sum(), made).norm() > 1e-6


def test_rewards_of_both_kinds_are_scored_in_the_order_of_the_spec() -> None:
    made, reward = backbone("flow"), Pull()
    plain = context(made, eta=0.0)
    rewards = {"latents": reward, "frames": plain.rewards["reward"]}
    where = context(made, eta=0.0, rewards=rewards, objective=Objective([Term("latents"), Term("frames", 3.0)]))
    found = where.sample_and_score(batch(made), Window(STEPS - 1, STEPS))
    assert list(found.scores) == ["latents", "frames"]
    frames = plain.sample_and_score(batch(made), Window(STEPS - 1, STEPS)).scores["reward"]
    torch.testing.assert_close(found.scores["frames"], frames)
    torch.testing.assert_close(found.reward, found.scores["latents"] + 3 * frames)


def test_a_score_of_another_shape_is_named() -> None:
    class Odd(Pull):
        def score(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
            return latents

    made = backbone("flow")
    with pytest.raises(ComponentError, match=r"reward 'reward' gave scores of shape \(4, 4, .*expected \(4,\)"):
        context(made, reward=Odd()).sample_and_score(batch(made), Window(0, 1))


def test_what_they_cannot_have_is_refused() -> None:
    latent = {"name": f"{FAKES}:Nearness", "label": "near"}
    assert check(tiny("unused", rewards=[latent])).rewards[0].key == "near"
    for changes, said in (
        ({"isolate": {"python": "python"}}, "rewards.0"),
        ({"contrast": {"positive": "a", "negative": "b"}}, "rewards.0.contrast"),
    ):
        with pytest.raises(SpecError, match=said):
            check(tiny("unused", rewards=[{**latent, **changes}, BRIGHTNESS]))
