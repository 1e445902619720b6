"""PRFL against its formula in float64, and the denoising loss on real clips beside it (arXiv 2511.21541)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import BRIGHT_CLIP, Nearness, write_clips
from tests.method_context import PROMPTS, SEEDS, STEPS, VIDEO, backbone, batch, context, gradient
from torch import Tensor

from vader import Options, Prompt
from vader.diffusion.clip_folder import read_clip_folder, read_frames
from vader.diffusion.noising import draw_timestep
from vader.diffusion.seeding import derive, stream
from vader.errors import SpecError
from vader.methods.objective import Objective, Term
from vader.methods.prfl import PRFL
from vader.protocols import Conditioning, Prediction


class Latents64(Nearness):
    """The same around 2, so that some clips are above the threshold and some below."""

    def score(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return 2.0 + super().score(latents, timestep.double(), conditioning) + latents[:, 0].mean((1, 2, 3))


def where(made: Any) -> Any:
    return context(made, eta=0.0, reward=Latents64(Options()), objective=Objective([Term("reward")]))


def losses(made: Any, seed: int = 0, **options: Any) -> Any:
    given = batch(made)
    given.rng.seed(seed)
    (loss,) = PRFL(PRFL.Options(**options), where(made)).losses([given], 0)
    return loss


def reference(made: Any, step: int) -> tuple[Tensor, Tensor]:
    """Euler steps to x_{m+1}, with gradient in step m alone; then 0.1 relu(2 - r(x_{m+1}, t_{m+1}))."""
    ours, given = where(made), made.encode([*map(Prompt, PROMPTS)])
    times = [*ours.sampler.timesteps.double(), torch.zeros(())]
    x = ours.noise(SEEDS).draw()
    for i in range(step + 1):
        with torch.set_grad_enabled(i == step):
            at = ours.sampler.timesteps[i].expand(len(x))
            yes = made.predict(made.denoiser, x, at, given.positive)
            no = made.predict(made.denoiser, x, at, given.negative)
            x = x + (times[i + 1] - times[i]) / 1000 * (no + 1.5 * (yes - no))
    reward = Latents64(Options()).score(x, times[step + 1].expand(len(x)), given)
    return 0.1 * (2.0 - reward).relu().mean(), reward


@pytest.mark.parametrize("seed", range(6))
def test_loss_and_gradient_equal_the_formula(seed: int) -> None:
    made = backbone("flow")
    found = losses(made, seed)
    step = random.Random(seed).randrange(STEPS)
    assert found.metrics["prfl/step"] == step
    wanted, reward = reference(made, step)
    torch.testing.assert_close(found.reward, reward.detach(), rtol=1e-7, atol=1e-9)
    assert float(found.value.detach()) == pytest.approx(float(wanted.detach()), rel=1e-7)
    torch.testing.assert_close(gradient(found.value, made), gradient(wanted, made), rtol=1e-7, atol=1e-12)


def test_every_step_is_drawn_and_above_the_threshold_nothing_is_learnt() -> None:
    made = backbone("flow")
    assert {losses(made, seed).metrics["prfl/step"] for seed in range(30)} == set(map(float, range(STEPS)))
    above = losses(made, threshold=-100.0)
    assert float(above.value.detach()) == 0
    assert gradient(above.value, made).norm() == 0
    maximised = losses(made, threshold=None, weight=1.0)
    assert float(maximised.value.detach()) == pytest.approx(-float(maximised.reward.mean()))


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_the_supervised_term_is_the_denoising_loss_of_real_clips(tmp_path: Path, prediction: Prediction) -> None:
    made = backbone(prediction)
    write_clips(tmp_path, VIDEO, 3)
    plain, held = losses(made, 1), losses(made, 1, clips=str(tmp_path), clips_weight=0.5)
    rows = read_clip_folder(tmp_path).rows
    clips = torch.cat([made.encode_clips(read_frames(row.file, VIDEO)[None]) for row in rows]).double()
    terms = []
    for seed in SEEDS:
        rng = stream(seed, "real clip")
        row = rng.randrange(3)
        at = draw_timestep(made.schedule, rng)
        generator = torch.Generator().manual_seed(derive(seed, "real clip"))
        noise = torch.randn(made.latent_shape(VIDEO), generator=generator, dtype=torch.float64)[None]
        level = at / 1000 if prediction == "flow" else float((1 - made.schedule.alphas_cumprod[int(at)]).sqrt())
        signal = 1 - level if prediction == "flow" else (1 - level**2) ** 0.5
        x = signal * clips[row : row + 1] + level * noise
        branch = made.encode([rows[row].prompt]).positive
        prediction_ = made.predict(made.denoiser, x, torch.tensor([at]), branch)
        wanted = noise - clips[row : row + 1] if prediction == "flow" else noise
        terms.append((prediction_ - wanted).square().mean())
    supervised = torch.stack(terms).mean()
    assert held.metrics["prfl/clips"] == pytest.approx(float(supervised.detach()), rel=1e-6)
    assert float(held.value.detach()) == pytest.approx(float((plain.value + 0.5 * supervised).detach()), rel=1e-7)
    wanted_gradient = gradient(plain.value + 0.5 * supervised, made)
    torch.testing.assert_close(gradient(held.value, made), wanted_gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "it holds no clip"),
        (["{"], "line 1: "),
        (['{"prompt": "a"}'], "line 1: no file; expected file, label, prompt"),
        (['{"file": "gone.mp4", "prompt": "a"}'], "line 1: there is no file 'gone.mp4'"),
        ([json.dumps({**BRIGHT_CLIP, "label": "good"})], "the label 'good' is no number"),
        ([json.dumps({**BRIGHT_CLIP, "lable": 1})], "unknown lable"),
        ([json.dumps(BRIGHT_CLIP)], "has 2 frames; expected 5 or more"),
    ],
)
def test_a_folder_that_cannot_be_read_is_one_error(tmp_path: Path, lines: list[str], said: str) -> None:
    write_clips(tmp_path, VIDEO, 1)
    (tmp_path / "clips.jsonl").write_text("\n".join(lines))
    made = backbone("flow")
    longer = context(made, reward=Latents64(Options()), video=type(VIDEO)(5, 4, 4))
    with pytest.raises(SpecError, match=r"method\.options\.clips") as refused:
        PRFL(PRFL.Options(clips=str(tmp_path)), longer)
    assert said in str(refused.value)
