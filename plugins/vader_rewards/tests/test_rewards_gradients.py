"""Every differentiable reward: its gradient is right, ascent on pixels raises it, nothing of it is trained."""

from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import entry_points

import pytest
import torch
from torch.overrides import TorchFunctionMode

from vader import Prompt, Runtime

APART = ("hps_package",)
"""Rewards whose package lives in an environment of its own: engines/check_hpsv2.py checks them there."""
ALL = sorted(
    entry.name
    for entry in entry_points(group="vader.rewards")
    if entry.value.startswith("vader_rewards.") and entry.name not in APART
)
SMOOTH = [name for name in ALL if name != "jpeg_size"]
NARROW = ("videoreward", "hpsv3", "vlm_question")
"""Rewards whose networks round to float32 inside."""
PICTURED = "image_fidelity"
PROMPTS = [Prompt("a red fox"), Prompt("two blue birds over a lake")]


class Doubled(TorchFunctionMode):
    """Where a network goes to float32 whatever it is given, it goes to float64, for finite differences."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def wide(value):
            return torch.float64 if value is torch.float32 else value

        if func is torch.Tensor.float:
            return args[0].double()
        return func(*map(wide, args), **{key: wide(value) for key, value in (kwargs or {}).items()})


def make(name, options, dtype=torch.float32):
    (entry,) = entry_points(group="vader.rewards", name=name)
    kind = entry.load()
    chosen = kind.Options(**options[name])
    return (
        kind(chosen) if name in ("flow", "motion", "jpeg_size") else kind(chosen, Runtime(torch.device("cpu"), dtype))
    )


@pytest.fixture(scope="module")
def rewards(options):
    """Each reward in float32, made once."""
    held = {}

    def get(name):
        if name not in held:
            held[name] = make(name, options)
        return held[name]

    return get


def counts(given):
    """The score that counts."""
    return given["score"] if isinstance(given, dict) else given


def frames(seed=0, clips=2, count=2, height=24, width=36, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return 0.2 + 0.6 * torch.rand(clips, count, 3, height, width, generator=generator, dtype=dtype)


def test_all_are_here(options):
    assert sorted(options) == ALL


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_against_finite_differences(name, options, picture):
    """In float64, along a random direction, on frames that are not square."""
    reward = make(name, options, dtype=torch.float64)
    with Doubled() if name in NARROW else nullcontext():
        difference_of(reward, name, told(name, picture))


def told(name, picture):
    """Prompts that a reward can judge by."""
    return [replace(prompt, image=picture(i)) for i, prompt in enumerate(PROMPTS)] if name == PICTURED else PROMPTS


def difference_of(reward, name, prompts):
    start = frames(dtype=torch.float64).requires_grad_()
    score = counts(reward.score(start, prompts))
    assert score.shape == (2,)
    assert score.dtype == torch.float64
    weight = torch.tensor([1.0, -0.7], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((score * weight).sum(), start)
    assert (gradient.abs().amax((2, 3, 4)) > 0).all(), "a frame without gradient"
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(start.shape, dtype=torch.float64, generator=generator)
    step = 1e-8 if name in ("imagenet", "nsfw", "ocr_text") else 1e-6  # ReLUs have kinks: stay between them
    with torch.no_grad():
        ahead, behind = ((counts(reward.score(start + s * step * direction, prompts)) * weight).sum() for s in (1, -1))
    close = 3e-3 if name == "nsfw" else 1e-4
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / (2 * step), rtol=close, atol=1e-8)


@pytest.mark.parametrize("name", SMOOTH)
def test_ascent_raises_the_score(name, rewards, picture):
    """Thirty steps of Adam on pixels, clamped to [0, 1]."""
    reward = rewards(name)
    pixels = frames(3, clips=1, count=getattr(type(reward), "frames", 1)).requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.01)
    scores = []
    for _ in range(31):
        optimizer.zero_grad()
        score = counts(reward.score(pixels, told(name, picture)[:1])).sum()
        scores.append(score.item())
        (-score).backward()
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    assert scores[-1] > scores[0] + 1e-4 * abs(scores[0])


@pytest.mark.parametrize("name", ALL)
def test_bad_frames(name, rewards):
    with pytest.raises(ValueError, match=r"expected \(b, f, 3, h, w\), floating point"):
        rewards(name).score(torch.zeros(2, 3, 4, 8, 8), PROMPTS)


def test_gradient_of_grounding_dino(tiny):
    """It rounds to float32 inside and chooses queries by rank, so: uphill, where the slope stands out of the noise."""
    chosen = {
        "detection": {
            "weights": str(tiny / "grounding_dino"),
            "object": "book",
            "engine": "grounding_dino",
            "goal": "favour",
        }
    }
    reward = make("detection", chosen, dtype=torch.float64)
    start = frames(2, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(start, PROMPTS).sum(), start)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (reward.score(start + s * 1e-5 * direction, PROMPTS).sum() for s in (1, -1))
    torch.testing.assert_close(gradient.norm(), (ahead - behind) / 2e-5, rtol=0.02, atol=0, check_dtype=False)
