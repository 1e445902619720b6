"""SRPO against its formulas in float64, and the recovery of clips from a known noise (arXiv 2509.06942)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fakes import Wording
from tests.integration.harness import FAKES, merged, tiny
from tests.method_context import PROMPTS, SEEDS, STEPS, backbone, batch, context, gradient
from torch import Tensor

import vader
from vader import Options, Prompt
from vader.methods.contrast import Contrast
from vader.methods.objective import Objective, Term
from vader.methods.srpo import SRPO

CONTRASTS = {"reward": Contrast("sharp.", "dull.")}


def where(made: Any, **more: Any) -> Any:
    fields = {"reward": Wording(Options()), "objective": Objective([Term("reward")]), "contrasts": CONTRASTS}
    return context(made, eta=0.0, **{**fields, **more})


def losses(made: Any, seed: int = 0, *, chosen: Any = None, **options: Any) -> list[Any]:
    given = batch(made)
    given.rng.seed(seed)
    return list(SRPO(SRPO.Options(**options), chosen or where(made)).losses([given], 0))


def clean_clips(made: Any) -> tuple[Tensor, Tensor]:
    """Noise and the clips that Euler's steps make of it."""
    ours, given = where(made), batch(made).conditioning
    sigma = [*torch.linspace(1.0, 1e-3, STEPS, dtype=torch.float64).tolist(), 0.0]
    noise = ours.noise(SEEDS).draw()
    x = noise
    with torch.no_grad():
        for i in range(STEPS):
            x = x + (sigma[i + 1] - sigma[i]) * velocity(made, x, sigma[i], given)
    return noise, x


def velocity(made: Any, x: Tensor, sigma: float, given: Any) -> Tensor:
    at = torch.full((len(x),), 1000 * sigma, dtype=torch.float32)
    yes, no = (made.predict(made.denoiser, x, at, branch) for branch in (given.positive, given.negative))
    return no + 1.5 * (yes - no)


def formula(made: Any, a: float, b: float) -> tuple[Tensor, Tensor]:
    """Loss and contrast of one step from a to b; which way it goes decides the phrases and k."""
    noise, x = clean_clips(made)
    noised = a * noise + (1 - a) * x
    y = noised + (b - a) * velocity(made, noised, a, batch(made).conditioning)
    frames = made.decode((y - b * noise) / (1 - b), [0, 1])
    reward = Wording(Options())
    sharp, dull = (reward.score(frames, [Prompt(f"{word} {text}") for text in PROMPTS]) for word in ("sharp.", "dull."))
    contrast = (1 + 0.1 + 0.15 * b) * sharp - dull if b < a else (1 + 0.3 - 0.29 * a) * dull - sharp
    return (0.7 - contrast).relu().mean(), contrast


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_equal_the_formula_in_both_directions(seed: int) -> None:
    made = backbone("flow")
    denoising, inversion = losses(made, seed)
    b = float(denoising.metrics["srpo/level"])
    length = min(0.1, b, 1 - b)
    for found, a, sense in ((denoising, b + length, 1), (inversion, max(b - length, 0.001), -1)):
        wanted, contrast = formula(made, a, b)
        torch.testing.assert_close(sense * found.reward, contrast.detach(), rtol=1e-7, atol=1e-9)
        assert float(found.value.detach()) == pytest.approx(float(wanted.detach()) / 2, rel=1e-7)
        expected = gradient(wanted / 2, made)
        assert expected.norm() > 1e-6
        torch.testing.assert_close(gradient(found.value, made), expected, rtol=1e-6, atol=1e-11)


def test_a_straight_flow_is_recovered_exactly_at_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the velocity is noise minus clip, whatever the level, the recovered clip is the clip."""
    made = backbone("flow")
    noise, x = clean_clips(made)
    chosen = where(made, guidance_scale=1.0)
    monkeypatch.setattr(type(chosen), "sample", lambda *_: x)
    monkeypatch.setattr(made, "predict", lambda denoiser, latents, *_: noise - x + 0 * latents)
    for seed in range(5):
        for loss in losses(made, seed, chosen=chosen, levels=(0.01, 0.95)):
            assert float(loss.metrics["srpo/recovery"]) < 1e-13


def test_directions_and_draws_are_counted_and_share_a_rollout() -> None:
    made = backbone("flow")
    predict, calls = made.predict, [0]

    def counting(*arguments: Any) -> Tensor:
        calls[0] += 1
        return predict(*arguments)

    made.predict = counting  # type: ignore[method-assign]
    for options, passes in (({}, 2), ({"direction": "denoising"}, 1), ({"reuse": 3}, 6)):
        calls[0] = 0
        method = SRPO(SRPO.Options(**options), where(made))
        found = list(method.losses([batch(made)], 0))
        assert method.passes == len(found) == passes
        assert calls[0] == STEPS + passes
    levels = [float(loss.metrics["srpo/level"]) for loss in found]
    assert levels[0] == levels[1] != levels[2]


def test_above_the_threshold_nothing_is_learnt() -> None:
    made = backbone("flow")
    for loss in losses(made, threshold=-100.0):
        assert gradient(loss.value, made).norm() == 0
    (free,) = losses(made, threshold=None, direction="denoising")
    assert float(free.value.detach()) == pytest.approx(-float(free.reward.mean()))


@pytest.mark.parametrize("recompute", ["auto", True])
def test_recomputation_changes_nothing(recompute: Any) -> None:
    made = backbone("flow")
    plain, again = losses(made, 1), losses(made, 1, chosen=where(made, recompute=recompute))
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(gradient(one.value, made), gradient(other.value, made), rtol=1e-9, atol=1e-14)


PHRASES = {"positive": "sharp.", "negative": "dull."}
FINE: dict[str, Any] = {
    "method": {"name": "srpo"},
    "backbone": {"options": {"prediction": "flow"}},
    "sampler": {"name": "diffusers", "options": {"scheduler": "UniPCMultistepScheduler"}},
    "gradient": {"mode": "last"},
    "rewards": [{"name": f"{FAKES}:Wording", "contrast": PHRASES}],
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rewards": [f"{FAKES}:Wording"]}, "rewards.0.contrast: method srpo scores"),
        (
            {"rewards": [{"name": f"{FAKES}:Wording", "contrast": {**PHRASES, "k": 0.2}}]},
            "rewards.0.contrast.k: method srpo has k among its own options",
        ),
        ({"method": {"options": {"levels": [0.9, 0.1]}}}, "method.options.levels: expected two numbers in order"),
        ({"gradient": {"mode": "rand"}}, "gradient.mode: method srpo has no gradient window"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_load(changes: dict[str, Any], said: str) -> None:
    assert vader.check(merged(tiny("unused"), FINE)).method.name == "srpo"
    with pytest.raises(vader.SpecError) as refused:
        vader.check(merged(tiny("unused"), merged(FINE, changes)))
    assert said in str(refused.value)


def test_a_backbone_without_a_flow_and_a_reward_without_a_contrast_are_refused() -> None:
    made: dict[str, Any] = merged(tiny("unused"), FINE)
    made["backbone"], made["sampler"] = {"name": "videocrafter2", "options": {"weights": "x"}}, {"steps": 3}
    made["video"] = {}
    with pytest.raises(
        vader.SpecError, match=r"method\.name: method 'srpo' needs a backbone that predicts flow; 'video"
    ):
        vader.check(made)
    with pytest.raises(vader.SpecError, match="predicts epsilon") as refused:
        SRPO(SRPO.Options(), context(backbone(), eta=0.0))
    assert "srpo needs a contrast for reward" in str(refused.value)
