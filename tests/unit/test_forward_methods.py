"""NFT and AWM against their formulas in float64, and closed forms on Gaussian data (arXiv 2509.16117, 2509.25050)."""

from __future__ import annotations

import math
from statistics import fmean, pstdev
from typing import Any

import pytest
import torch
from tests.integration.harness import merged, tiny
from tests.method_context import PROMPTS, SEEDS, Constant, backbone, batch, context, gradient, nudge, trained
from torch import Tensor

import vader
from vader.diffusion.noising import draw_timestep
from vader.diffusion.seeding import derive, stream
from vader.methods.advantages import group_advantages
from vader.methods.awm import AWM, weighted
from vader.methods.forward_process import NoisedClips
from vader.methods.nft import NFT
from vader.protocols import Prediction, Runtime
from vader.testing.gaussian_backbone import GaussianBackbone
from vader.weights.lora.snapshot import Snapshot

KINDS: dict[str, Any] = {"nft": NFT, "awm": AWM}
SMALL: dict[str, dict[str, Any]] = {
    "nft": {"group_size": 2, "beta": 0.3, "draws": 2},
    "awm": {"group_size": 2, "draws": 2, "clip_range": 1e-3},
}


def method(name: str, made: Any, where: Any = None, **options: Any) -> Any:
    return KINDS[name](KINDS[name].Options(**{**SMALL[name], **options}), where or context(made, eta=0.0))


def walked(losses: Any, made: Any) -> tuple[float, Tensor, list[Any]]:
    """The sum of losses, that of their gradients, each taken before the next is asked for, and the losses."""
    seen, slopes = [], []
    for loss in losses:
        seen.append(loss)
        slopes.append(gradient(loss.value, made))
    return sum(float(loss.value.detach()) for loss in seen), torch.stack(slopes).sum(0), seen


def advantages(rewards: Tensor, limit: float) -> list[float]:
    """By each prompt's mean and the standard deviation of all."""
    values = rewards.tolist()
    found = []
    for prompt, value in zip(PROMPTS, values, strict=True):
        own = [other for text, other in zip(PROMPTS, values, strict=True) if text == prompt]
        found.append(max(-limit, min(limit, (value - fmean(own)) / (pstdev(values) + 1e-6))))
    return found


def predicted(made: Any, x: Tensor, t: float, row: int) -> Tensor:
    given = batch(made).conditioning.positive
    at = torch.tensor([t])
    found: Tensor = made.predict(made.denoiser, x, at, {name: one[row : row + 1] for name, one in given.items()})
    return found


def reference(name: str, made: Any, old: Any, update: int, clean: Tensor, rewards: Tensor) -> Tensor:
    """Clip by clip, from the papers' formulas. ``old`` is a backbone with the policy that made the clips."""
    terms = []
    found = advantages(rewards, 5.0 if name == "nft" else 1.0)
    for draw in range(2):
        for row, seed in enumerate(SEEDS):
            own = derive(seed, name, update, draw)
            t = float(torch.tensor(draw_timestep(made.schedule, stream(own, "timestep"))))
            generator = torch.Generator().manual_seed(own)
            noise = torch.randn(clean.shape[1:], generator=generator, dtype=torch.float64)[None]
            flow = made.schedule.prediction == "flow"
            sigma = t / 1000 if flow else math.sqrt(1 - float(made.schedule.alphas_cumprod[int(t)]))
            alpha = 1 - sigma if flow else math.sqrt(1 - sigma**2)
            x0 = clean[row : row + 1]
            x = alpha * x0 + sigma * noise
            now, before = predicted(made, x, t, row), predicted(old, x, t, row).detach()
            if name == "awm":
                wanted = noise - x0 if flow else noise
                damped = [((p - wanted).square().mean() + 1e-10) ** 0.25 - 1e-10**0.25 for p in (now, before)]
                ratio = torch.exp(-sigma * (damped[0] - damped[1]) / 0.25)
                clipped = ratio.clamp(1 - 1e-3, 1 + 1e-3)
                terms.append(-torch.minimum(found[row] * ratio, found[row] * clipped))
                continue
            r, beta = 0.5 + found[row] / 10, 0.3
            for share, mix in ((r, beta * now + (1 - beta) * before), (1 - r, (1 + beta) * before - beta * now)):
                x0_hat = x - sigma * mix if flow else (x - sigma * mix) / alpha
                weight = (x0_hat - x0).abs().mean().detach().clamp(min=1e-5)
                terms.append(share * ((x0_hat - x0) ** 2 / weight).mean() * 5.0 / beta)
    return torch.stack(terms).sum() / (2 * len(SEEDS))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
@pytest.mark.parametrize("update", [0, 1])
def test_loss_and_gradient_equal_the_formula(name: str, prediction: Prediction, update: int) -> None:
    """On the first optimizer step the old policy is the present one, on the second it is not."""
    made, old, given = backbone(prediction), backbone(prediction), batch(backbone(prediction))
    ours = method(name, made, reuse=2)
    value, slope, found = walked(ours.losses([given], 0), made)
    if update:
        nudge(made)
        value, slope, found = walked(ours.losses([given], 1), made)
    else:
        old = made
    clean = ours._rounds[0].latents
    wanted = reference(name, made, old, update, clean, found[0].reward)
    assert value == pytest.approx(float(wanted.detach()), rel=1e-7, abs=1e-12)
    expected = gradient(wanted, made)
    assert expected.norm() > 1e-6
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("name", KINDS)
def test_without_a_preference_the_gradient_is_zero(name: str) -> None:
    made = backbone("flow")
    ours = method(name, made, context(made, eta=0.0, reward=Constant()))
    assert walked(ours.losses([batch(made)], 0), made)[1].abs().max() < 1e-13


def test_the_first_optimizer_step_is_on_policy_and_later_ones_are_corrected() -> None:
    made = backbone("flow")
    ours = method("awm", made, reuse=2)
    for loss in ours.losses([batch(made)], 0):
        assert loss.metrics["awm/ratio_deviation"] == 0
    nudge(made)
    before = [parameter.detach().clone() for parameter in trained(made)]
    assert all(loss.metrics["awm/ratio_deviation"] > 0 for loss in ours.losses([batch(made)], 1))
    assert all(torch.equal(one, other) for one, other in zip(before, trained(made), strict=True))


def test_the_old_policy_of_nft_follows_round_by_round() -> None:
    """decay of round i is min(rate i, max); what it keeps is a mean of what the adapter was."""
    made = backbone("flow")
    ours = method("nft", made, decay_rate=0.25, decay_max=0.4)
    kept = None
    for decay in (0.0, 0.25, 0.4, 0.4):
        present = torch.cat([parameter.detach().flatten() for parameter in trained(made)])
        kept = present.clone() if kept is None else decay * kept + (1 - decay) * present
        drift = [float(loss.metrics["nft/drift"]) for loss in ours.losses([batch(made)], 0)]
        assert (max(drift) == 0) is (decay == 0)
        found = torch.cat([tensor.flatten() for tensor in ours.state_dict()["old"]])
        torch.testing.assert_close(found, kept, rtol=1e-12, atol=1e-14)
        nudge(made)


# -- closed forms


def gaussian(prediction: str = "flow") -> tuple[Any, Tensor, Tensor]:
    """An ideal denoiser with an adapter that adds nothing yet, and the adapter's two factors."""
    from vader.spec import AdapterSpec
    from vader.weights import lora

    options = GaussianBackbone.Options(prediction=prediction)  # type: ignore[arg-type]
    made = GaussianBackbone(options, Runtime(torch.device("cpu"), torch.float64))
    down, up = lora.inject(made.denoiser, AdapterSpec(rank=2), ("mix",), 0)
    made.denoiser.double()
    return made, down, up


def residual(made: Any, noised: NoisedClips, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction minus target of the ideal denoiser of a flow, and the noise level: a Gaussian's posterior mean."""
    sigma = (noised.timestep.double() / 1000).reshape(-1, 1, 1, 1, 1)
    m = mean.double().reshape(-1, 1, 1, 1, 1)
    variance = (1 - sigma) ** 2 * 0.25 + sigma**2
    slope = (sigma - (1 - sigma) * 0.25) / variance
    return -m + slope * (noised.latents - (1 - sigma) * m) - noised.target, sigma


def spied(monkeypatch: pytest.MonkeyPatch) -> list[NoisedClips]:
    from vader.methods import forward_process

    seen: list[NoisedClips] = []
    drawn = forward_process.drawn_clips

    def spy(*arguments: Any) -> NoisedClips:
        seen.append(drawn(*arguments))
        return seen[-1]

    monkeypatch.setattr(forward_process, "drawn_clips", spy)
    return seen


@pytest.mark.parametrize("name", KINDS)
def test_on_gaussian_data_loss_and_gradient_have_closed_forms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the ideal denoiser, whose error e is known: AWM (uniform) is minus the mean advantage with slope 2 A e / n;
    NFT is sigma mean(e^2) / mean|e| with slope 2 A sigma e / (n mean|e|)."""
    seen = spied(monkeypatch)
    made, down, up = gaussian()
    options = {"weighting": "uniform", "clip_range": 0.5} if name == "awm" else {}
    ours = method(name, made, **options, draws=1)
    (loss,) = ours.losses([batch(made)], 0)
    noised = seen[0]
    e, sigma = residual(made, noised, batch(made).conditioning.positive["embeds"])
    found = torch.tensor(advantages(loss.reward, 1.0 if name == "awm" else 5.0), dtype=torch.float64)
    n, clips = e[0].numel(), len(e)
    size = e.abs().mean((1, 2, 3, 4))
    slope = 2 * found.reshape(-1, 1, 1, 1, 1) * e / (n * clips)
    if name == "awm":
        wanted = -found.mean()
    else:
        wanted = 5.0 / 0.3 * (sigma.flatten() * e.square().mean((1, 2, 3, 4)) / size).mean()
        slope = slope * sigma / size.reshape(-1, 1, 1, 1, 1)
    assert float(loss.value.detach()) == pytest.approx(float(wanted), rel=1e-7, abs=1e-9)
    by_weight = torch.einsum("bcfhw,bdfhw->cd", slope, noised.latents)
    by_up = by_weight @ down.detach().T
    assert by_up.norm() > 1e-4
    torch.testing.assert_close(torch.autograd.grad(loss.value, up)[0], by_up, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_the_gaussian_denoiser_is_ideal(prediction: str) -> None:
    """Its error on noised data is the posterior's variance."""
    from vader.methods.forward_process import noised_clips

    made, _, _ = gaussian(prediction)
    where, seeds = context(made, eta=0.0), list(range(400))
    mean = float(made.encode([vader.Prompt(PROMPTS[0])]).positive["embeds"])
    clean = mean + 0.5 * where.noise([seed + 10_000 for seed in seeds]).draw()
    branch = {"embeds": torch.full((400, 1), mean, dtype=torch.float64)}
    noised = noised_clips(where, clean, seeds)
    with torch.no_grad():
        error = noised.error(made.predict(made.denoiser, noised.latents, noised.timestep, branch))
    alpha, sigma = made.schedule.levels(noised.timestep)
    variance = alpha**2 * 0.25 + sigma**2
    noise = 0.25 * alpha**2 / variance  # of the noise, given the latents; the clean latents follow from it
    posterior = noise if prediction == "epsilon" else noise * (1 + sigma / alpha) ** 2
    assert float((error / posterior).mean()) == pytest.approx(1.0, abs=0.03)


# -- parts


def test_weightings_are_the_authors() -> None:
    error, level = torch.tensor([4.0, 0.0]).double(), torch.tensor([0.5, 0.5]).double()
    expected = {"uniform": 4.0, "t": 2.0, "t2": 1.0, "huber": 1.0, "ghuber": 0.5 / 0.25 * (4**0.25 - 1e-10**0.25)}
    for name, wanted in expected.items():
        found = weighted(error, level, name, 0.25)  # type: ignore[arg-type]
        assert float(found[0]) == pytest.approx(wanted, abs=1e-5)
        assert float(found[1]) == 0.0


def test_advantages_compare_clips_of_a_prompt_wherever_they_are() -> None:
    everyone = [("a", 1.0), ("a", 3.0), ("b", 0.0), ("b", math.nan), ("a", 2.0), ("b", 4.0)]
    prompts, rewards = [["a", "a"], ["b", "b"]], [[1.0, 3.0], [0.0, math.nan]]
    by_prompt = group_advantages(prompts, rewards, lambda mine: everyone, "prompt")
    assert by_prompt[0] == pytest.approx([-1 / pstdev([1, 2, 3]), 1 / pstdev([1, 2, 3])], rel=1e-5)
    assert by_prompt[1][0] == pytest.approx(-1.0, rel=1e-5)
    assert math.isnan(by_prompt[1][1])
    spread = pstdev([1, 3, 0, 2, 4])
    by_round = group_advantages(prompts, rewards, lambda mine: everyone, "round")
    assert by_round[0] == pytest.approx([-1 / spread, 1 / spread], rel=1e-5)


def test_a_snapshot_changes_places_with_the_parameters_and_back() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    snapshot = Snapshot([parameter])
    with torch.no_grad():
        parameter.copy_(torch.tensor([3.0, 5.0]))
    with snapshot.swapped_in():
        assert parameter.tolist() == [1.0, 2.0]
    assert parameter.tolist() == [3.0, 5.0]
    snapshot.follow(0.25)
    assert snapshot.state_dict()[0].tolist() == [2.5, 4.25]
    snapshot.follow(0.0)
    assert torch.equal(snapshot.state_dict()[0], parameter.detach())


@pytest.mark.parametrize(
    "sampler", [{"name": "ddim"}, {"name": "diffusers", "options": {"scheduler": "DDIMScheduler"}}]
)
@pytest.mark.parametrize("name", KINDS)
def test_any_sampler_will_do_and_rounds_are_whole(name: str, sampler: dict[str, Any]) -> None:
    changes = {"method": {"name": name, "options": {"group_size": 4}}, "sampler": sampler, "gradient": {"mode": "last"}}
    made = merged(tiny("unused", **changes), {"train": {"batch_size": 2, "gradient_accumulation": 2}})
    assert vader.check(made).method.name == name
    with pytest.raises(
        vader.SpecError, match=r"train\.batch_size: an optimizer step makes 3 clips .* no multiple of 4"
    ):
        vader.check(merged(made, {"train": {"batch_size": 3, "gradient_accumulation": 1}}))
