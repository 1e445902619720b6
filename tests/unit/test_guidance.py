"""Classifier-free guidance: the formula, the order of its calls, and what carries gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vader.diffusion.guidance import guided
from vader.protocols import Branch, Conditioning

LATENTS = torch.arange(1.0, 5).reshape(2, 1, 1, 1, 2)
TIMESTEP = torch.tensor([7.0, 7.0])
CONDITIONING = Conditioning(
    {"embeds": torch.full((2, 1, 1), 3.0), "mask": torch.tensor([1.0, 2.0])},
    {"embeds": torch.full((2, 1, 1), 5.0), "mask": torch.tensor([3.0, 4.0])},
)


class Recorder:
    """``weight * latents * embedding``, remembering its calls."""

    def __init__(self) -> None:
        self.weight = torch.tensor(2.0, requires_grad=True)
        self.calls: list[tuple[float, bool]] = []
        self.branches: list[Branch] = []

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        assert timestep is TIMESTEP
        embeds = branch["embeds"]
        self.calls.append((embeds[0, 0, 0].item(), torch.is_grad_enabled()))
        self.branches.append(branch)
        return self.weight * latents * embeds[:, :, :, None, None]


def call(scale: float, **options: Any) -> tuple[Tensor, Recorder]:
    predict = Recorder()
    return guided(predict, LATENTS, TIMESTEP, CONDITIONING, scale, **options), predict


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.0, 12.0])
@pytest.mark.parametrize("branches", ["both", "conditional"])
def test_is_uncond_plus_scale_times_the_difference(scale: float, branches: Any) -> None:
    output, _ = call(scale, branches=branches)
    torch.testing.assert_close(output, 2 * LATENTS * (5 + scale * (3 - 5)))


def test_calls_the_conditional_branch_first() -> None:
    assert [embeds for embeds, _ in call(4.0)[1].calls] == [3.0, 5.0]


def test_of_scale_1_calls_the_conditional_branch_only() -> None:
    assert call(1.0)[1].calls == [(3.0, True)]


def test_each_branch_gets_all_that_is_its_own() -> None:
    assert call(4.0)[1].branches == [CONDITIONING.positive, CONDITIONING.negative]


def test_guidance_without_a_negative_branch_is_refused() -> None:
    alone = Conditioning(CONDITIONING.positive)
    guided(Recorder(), LATENTS, TIMESTEP, alone, 1.0)
    with pytest.raises(ValueError, match=r"guidance_scale is 4.*expected 1"):
        guided(Recorder(), LATENTS, TIMESTEP, alone, 4.0)


def test_both_branches_carry_gradient() -> None:
    output, predict = call(4.0, branches="both")
    assert [grad for _, grad in predict.calls] == [True, True]
    output.sum().backward()
    assert predict.weight.grad == LATENTS.sum() * (5 + 4 * (3 - 5))


def test_conditional_carries_the_gradient_of_the_conditional_branch_alone() -> None:
    output, predict = call(4.0, branches="conditional")
    assert [grad for _, grad in predict.calls] == [True, False]
    output.sum().backward()
    assert predict.weight.grad == LATENTS.sum() * 4 * 3


@pytest.mark.parametrize("branches", ["both", "conditional"])
def test_builds_no_graph_under_the_callers_no_grad(branches: Any) -> None:
    with torch.no_grad():
        output, predict = call(4.0, branches=branches)
    assert not output.requires_grad
    assert [grad for _, grad in predict.calls] == [False, False]


def test_leaves_grad_mode_as_it_was() -> None:
    call(4.0, branches="conditional")
    assert torch.is_grad_enabled()
