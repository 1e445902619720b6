"""Predictions used again before the gradient window: which steps call the denoiser, and what comes of it."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import TinyDenoiser
from tests.integration.harness import tiny
from tests.unit.test_rollout import CONDITIONING, SEEDS, STEPS, ddim, flow_euler, loss_of, noise
from torch import Tensor

import vader
from vader.diffusion.gradient import Window, no_gradient
from vader.diffusion.rollout import rollout
from vader.diffusion.shortcuts import Shortcuts
from vader.protocols import Sampler

B, C, N = "both", "conditional", "none"


@pytest.mark.parametrize(
    ("shortcuts", "plan"),
    [
        (Shortcuts(), [B] * 6),
        (Shortcuts(every=2), [B, N, B, N, B, N]),
        (Shortcuts(every=3, from_step=1), [B, B, N, N, B, N]),
        (Shortcuts(every=2, from_step=2, to_step=5), [B, B, B, N, B, B]),
        (Shortcuts(every=2, to_step=99), [B, N, B, N, B, N]),
        (Shortcuts(guidance_every=3), [B, C, C, B, C, C]),
        (Shortcuts(every=2, guidance_every=2), [B, N, C, N, B, N]),
        (Shortcuts(coarse_steps=2), [B, N, N, B, N, N]),
        (Shortcuts(coarse_steps=4), [B, B, N, B, B, N]),
        (Shortcuts(coarse_steps=9), [B] * 6),
        (Shortcuts(coarse_steps=3, guidance_every=2), [B, N, C, N, B, N]),
    ],
)
def test_plans(shortcuts: Shortcuts, plan: list[str]) -> None:
    assert shortcuts.plan(6) == plan


@pytest.mark.parametrize("shortcuts", [Shortcuts(every=2), Shortcuts(coarse_steps=3)])
def test_nothing_is_left_out_where_no_step_is_free(shortcuts: Shortcuts) -> None:
    assert shortcuts.plan(0) == []


class Counted:
    """The tiny denoiser with the steps and batches of its calls."""

    def __init__(self, sampler: Sampler) -> None:
        self.model, self.times = TinyDenoiser(), sampler.timesteps.tolist()
        self.calls: list[tuple[int, int]] = []

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Any) -> Tensor:
        self.calls.append((self.times.index(timestep[0].item()), len(latents)))
        return self.model.predict(latents, timestep, branch)


def made(sampler: Sampler, window: Window, shortcuts: Shortcuts | None, scale: float = 2.5) -> tuple[Tensor, Counted]:
    counted = Counted(sampler)
    latents = rollout(counted, sampler, CONDITIONING, noise(), window, guidance_scale=scale, shortcuts=shortcuts)
    return latents, counted


def test_steps_that_use_a_prediction_again_make_no_call() -> None:
    plan = Shortcuts(every=2, guidance_every=2)
    latents, counted = made(ddim(), Window(3, STEPS), plan)
    assert counted.calls == [(0, 4), (2, 2), (3, 4), (4, 4)]
    before = len(counted.calls)
    loss_of(latents).backward()
    assert {step for step, _ in counted.calls[before:]} == {3}


def test_no_shortcut_is_the_exact_rollout() -> None:
    exact = made(ddim(), Window(3, STEPS), None)[0]
    torch.testing.assert_close(made(ddim(), Window(3, STEPS), Shortcuts())[0], exact, rtol=1e-12, atol=0)


def test_they_are_what_a_loop_by_hand_gives_and_the_window_is_exact() -> None:
    """Five steps, the last two in the window: both branches at 0, nothing at 1, the conditional one at 2."""
    found, counted = made(ddim(), Window(3, STEPS), Shortcuts(every=2, guidance_every=2))
    model, sampler, draws = TinyDenoiser(), ddim(), noise()
    x, difference = draws.draw(), torch.zeros(())
    for i in range(STEPS):
        t = sampler.timesteps[i].expand(len(SEEDS))
        if i != 1:
            cond = model(x, t, CONDITIONING.positive["embeds"])
            uncond = cond - difference if i == 2 else model(x, t, CONDITIONING.negative["embeds"])
            difference, output = cond - uncond, uncond + 2.5 * (cond - uncond)
        if i < 3:
            output, difference = output.detach(), difference.detach()
        x = sampler.step(output, i, x, draws.draw()).prev
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(loss_of(found), [counted.model.lora_a, counted.model.lora_b])
    torch.testing.assert_close(ours, torch.autograd.grad(loss_of(x), [model.lora_a, model.lora_b]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("make", [flow_euler, lambda: ddim(eta=0.0)])
def test_coarse_steps_are_longer_steps_of_a_first_order_sampler(make: Any) -> None:
    """A prediction that is used twice takes the latents where one step over both would."""
    sampler = make()
    found, counted = made(sampler, no_gradient(STEPS), Shortcuts(coarse_steps=2), scale=1.0)
    assert [step for step, _ in counted.calls] == [0, 2]
    longer = make()
    keep = [0, 2]
    if hasattr(longer, "_sigmas"):
        longer._sigmas = [sampler._sigmas[i] for i in (*keep, STEPS)]
    else:
        longer._alpha = [sampler._alpha[i] for i in keep]
        longer._alpha_prev = [sampler._alpha_prev[i] for i in (1, STEPS - 1)]
    longer.timesteps = sampler.timesteps[keep]
    expected, _ = made(longer, no_gradient(2), None, scale=1.0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("window", "closed"), [(Window(3, STEPS), 3), (no_gradient(STEPS), STEPS), (Window(0, STEPS), 0)]
)
def test_a_cache_lasts_until_the_window(window: Window, closed: int) -> None:
    """The cache of this test doubles predictions; the one inside the window is not doubled."""
    open_now, seen = [False], []

    @contextmanager
    def cache(predict: Any, conditioning: Any) -> Any:
        open_now[0] = True
        yield lambda *arguments: 2 * predict(*arguments)
        open_now[0] = False

    def predict(latents: Tensor, timestep: Tensor, branch: Any) -> Tensor:
        seen.append(open_now[0])
        return model.predict(latents, timestep, branch)

    model = TinyDenoiser()
    rollout(predict, ddim(), CONDITIONING, noise(), window, recompute=False, shortcuts=Shortcuts(cache=cache))
    assert seen == [True] * closed + [False] * (STEPS - closed)
    assert open_now == [False]


def test_validation_and_training_in_one_run(tmp_path: Path) -> None:
    """Clips of validation are made in full: before training they score what they do without shortcuts."""
    runs = {}
    for name, section in {"exact": {}, "short": {"coarse_steps": 1, "guidance_every": 2}}.items():
        changes: dict[str, Any] = {"validation": {"clips": 2, "save_clips": 0}}
        changes["train"] = {"steps": 1, "warmup_steps": 0}
        made = vader.train(tiny(tmp_path / name, sampler={"steps": 6}, rollout=section, **changes))
        first = made.validations[0].clips
        runs[name] = ([clip.scores for clip in first], made.metrics["grad_norm"])
    assert runs["short"][0] == runs["exact"][0]
    assert runs["short"][1] != runs["exact"][1]
