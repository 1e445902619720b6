"""Classifier-free guidance: the formula, how many calls it makes, and what carries gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vader.diffusion.guidance import guided
from vader.diffusion.shortcuts import FreeSteps
from vader.protocols import Branch, Conditioning

LATENTS = torch.arange(1.0, 5).reshape(2, 1, 1, 1, 2)
TIMESTEP = torch.tensor([7.0, 7.0])
CONDITIONING = Conditioning(
    {"embeds": torch.full((2, 1, 1), 3.0), "mask": torch.tensor([1.0, 2.0])},
    {"embeds": torch.full((2, 1, 1), 5.0), "mask": torch.tensor([3.0, 4.0])},
)


APART = Conditioning({"embeds": torch.full((2, 1, 1), 3.0)}, {"embeds": torch.full((2, 2, 1), 5.0)})
"""Branches of different lengths."""


class Recorder:
    """``weight * latents * embedding``, remembering the embeddings and grad mode of its calls."""

    def __init__(self) -> None:
        self.weight = torch.tensor(2.0, requires_grad=True)
        self.calls: list[tuple[list[float], bool]] = []
        self.branches: list[Branch] = []

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        embeds = branch["embeds"]
        assert timestep.tolist() == [7.0] * len(latents)
        assert len(latents) == len(embeds)
        self.calls.append((embeds[:, 0, 0].tolist(), torch.is_grad_enabled()))
        self.branches.append(branch)
        return self.weight * latents * embeds.mean(1)[:, :, None, None, None]


def call(scale: float, conditioning: Conditioning = CONDITIONING, **options: Any) -> tuple[Tensor, Recorder]:
    predict = Recorder()
    return guided(predict, LATENTS, TIMESTEP, conditioning, scale, **options), predict


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.0, 12.0])
@pytest.mark.parametrize("branches", ["both", "conditional"])
def test_is_uncond_plus_scale_times_the_difference(scale: float, branches: Any) -> None:
    output, _ = call(scale, branches=branches)
    torch.testing.assert_close(output, 2 * LATENTS * (5 + scale * (3 - 5)))


BOTH, COND, UNCOND = [3.0, 3.0, 5.0, 5.0], [3.0, 3.0], [5.0, 5.0]


def test_is_one_call_with_the_conditional_branch_first() -> None:
    assert call(4.0)[1].calls == [(BOTH, True)]


def test_of_scale_1_calls_the_conditional_branch_only() -> None:
    assert call(1.0)[1].calls == [(COND, True)]


def test_each_branch_gets_all_that_is_its_own() -> None:
    branch = call(4.0)[1].branches[0]
    assert branch["mask"].tolist() == [1, 2, 3, 4]
    assert branch["embeds"][:, 0, 0].tolist() == BOTH


@pytest.mark.parametrize(
    "negative",
    [
        APART.negative,
        {"embeds": torch.full((2, 1, 1), 5.0), "mask": torch.ones(2)},
        {"embeds": torch.full((2, 1, 1), 5.0, dtype=torch.float64)},
    ],
    ids=["shape", "names", "dtype"],
)
def test_branches_that_cannot_be_joined_are_two_calls(negative: Branch) -> None:
    output, predict = call(4.0, Conditioning(APART.positive, negative))
    assert predict.calls == [(COND, True), (UNCOND, True)]
    torch.testing.assert_close(output.float(), call(4.0)[0])
    assert predict.branches == [APART.positive, negative]


@pytest.mark.parametrize(
    ("recompute", "calls"), [(False, [BOTH]), ("auto", [BOTH, BOTH]), (True, [COND, UNCOND, UNCOND, COND])]
)
def test_recomputation_makes_the_calls_again_and_gives_the_same_gradient(recompute: Any, calls: Any) -> None:
    output, predict = call(4.0, recompute=recompute)
    output.sum().backward()
    assert [embeds for embeds, _ in predict.calls] == calls
    assert predict.weight.grad == LATENTS.sum() * (5 + 4 * (3 - 5))


def test_without_gradient_nothing_is_apart() -> None:
    with torch.no_grad():
        assert call(4.0, recompute=True)[1].calls == [(BOTH, False)]


def test_guidance_without_a_negative_branch_is_refused() -> None:
    alone = Conditioning(CONDITIONING.positive)
    guided(Recorder(), LATENTS, TIMESTEP, alone, 1.0)
    with pytest.raises(ValueError, match=r"guidance_scale is 4.*expected 1"):
        guided(Recorder(), LATENTS, TIMESTEP, alone, 4.0)


def test_both_branches_carry_gradient() -> None:
    output, predict = call(4.0, branches="both")
    assert [grad for _, grad in predict.calls] == [True]
    output.sum().backward()
    assert predict.weight.grad == LATENTS.sum() * (5 + 4 * (3 - 5))


def test_conditional_carries_the_gradient_of_the_conditional_branch_alone() -> None:
    output, predict = call(4.0, branches="conditional")
    assert predict.calls == [(COND, True), (UNCOND, False)]
    output.sum().backward()
    assert predict.weight.grad == LATENTS.sum() * 4 * 3


@pytest.mark.parametrize("branches", ["both", "conditional"])
def test_builds_no_graph_under_the_callers_no_grad(branches: Any) -> None:
    with torch.no_grad():
        output, predict = call(4.0, branches=branches)
    assert not output.requires_grad
    assert predict.calls == [(BOTH, False)]


def test_leaves_grad_mode_as_it_was() -> None:
    call(4.0, branches="conditional")
    assert torch.is_grad_enabled()


def test_branches_are_combined_as_the_backbone_wants() -> None:
    """``combine`` gets both predictions and the scale, with shortcuts too, and is not asked where guidance is off."""
    seen: list[float] = []

    def combine(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        seen.append(scale)
        return conditional - unconditional

    conditioning = Conditioning({"embeds": torch.full((2, 1), 5.0)}, {"embeds": torch.full((2, 1), 2.0)})

    def predict(latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        return branch["embeds"][:, :, None, None, None].expand_as(latents)

    latents, timestep = torch.zeros(2, 1, 1, 1, 1), torch.ones(2)
    assert (guided(predict, latents, timestep, conditioning, 4.0, combine=combine) == 3.0).all()
    assert (guided(predict, latents, timestep, conditioning, 1.0, combine=combine) == 5.0).all()
    free = FreeSteps(predict, conditioning, ["both", "conditional", "none"], combine)
    assert all((free(i, latents, timestep, 7.0) == 3.0).all() for i in range(3))
    assert seen == [4.0, 7.0, 7.0]
