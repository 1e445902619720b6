from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from vader_shapes import model
from vader_shapes.pretrain import common, data, decoder, defects, denoiser, few_steps, vae
from vader_shapes.pretrain.muon import Muon, orthogonalise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_budget_ends_by_steps_or_by_minutes() -> None:
    budget = common.Budget(steps=100, batch=1, learning_rate=1.0, warmup=10, minutes=2.0)
    assert budget.progress(50, 30.0) == 0.5
    assert budget.progress(50, 90.0) == 0.75
    assert budget.progress(0, 1e9) == 1.0
    assert budget.rate(0, 0.0) == pytest.approx(0.1)
    assert budget.rate(50, 0.0) == pytest.approx(0.5)
    assert budget.rate(100, 0.0) == pytest.approx(0.0)
    assert common.Budget(100, 1, 1.0).minutes == math.inf


def test_a_checkpoint_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run" / "stage.pt"
    assert common.load_checkpoint(path) is None
    for step in (1, 2):
        common.save_checkpoint(path, {"step": step, "tensor": torch.arange(3)})
    saved = common.load_checkpoint(path)
    assert saved is not None
    assert saved["step"] == 2
    assert [file.name for file in path.parent.iterdir()] == ["stage.pt"]


def test_orthogonalise_makes_singular_values_near_one() -> None:
    for shape in ((8, 32), (32, 8)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=seeded()), iterations=8))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_muon_fits_a_linear_map() -> None:
    torch.manual_seed(0)
    layer, target = nn.Linear(8, 8), torch.randn(8, 8)
    optimizer = Muon(layer.named_parameters(), lr=0.05)
    x = torch.randn(64, 8)
    losses = []
    for _ in range(200):
        loss = (layer(x) - x @ target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_the_training_decode_is_the_vae_decode_before_its_clamp() -> None:
    torch.manual_seed(0)
    net = model.build_vae().eval()
    latents = torch.randn(1, 16, 3, 8, 8)
    with torch.no_grad():
        ours, theirs = vae.decode_unclamped(net, latents).clamp(-1, 1), net.decode(latents).sample
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_channel_of_mere_noise_is_scaled_away_and_one_that_holds_the_clips_to_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(64, 2, 3, 8, 8, generator=generator)
    told = torch.tensor([0.7, 0.02]).view(1, 2, 1, 1, 1)  # deviation of what the clips explain, channel by channel
    noise = torch.tensor([0.01, 0.13]).view(1, 2, 1, 1, 1)
    mean = 3.0 + told * draws
    offset, scale = vae.normalisation(mean, noise.expand_as(mean))
    sampled = mean + noise * torch.randn(mean.shape, generator=generator)
    normalised = (sampled - offset.view(1, -1, 1, 1, 1)) / scale.view(1, -1, 1, 1, 1)
    share = 0.02**2 / (0.02**2 + 0.13**2)
    assert normalised.mean((0, 2, 3, 4)).tolist() == pytest.approx([0.0, 0.0], abs=0.02)
    assert normalised.var((0, 2, 3, 4)).tolist() == pytest.approx([1.0, share], rel=0.03)


def test_the_right_velocity_has_no_loss() -> None:
    latents = denoiser.Latents(
        torch.ones(4, 1, 1, 1, 1), torch.zeros(4, 1, 1, 1, 1), torch.zeros(5, 2).long(), torch.ones(5, 2).long()
    )

    def predict(noisy: torch.Tensor, sigma: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        level = sigma.view(-1, 1, 1, 1, 1)
        return (noisy - (1 - level)) / level - 1  # noise - x_0, for x_0 = 1

    assert denoiser.flow_matching_loss(predict, latents, 64, seeded()) < 1e-6


def test_noise_levels_are_in_range_and_a_tenth_of_the_captions_is_empty() -> None:
    sigmas = denoiser.draw_sigmas(4000, seeded())
    assert sigmas.min() > 0
    assert sigmas.max() < 1
    tokens = torch.zeros(5, 1).long()
    tokens[4] = 7  # the last row is the empty caption
    latents = denoiser.Latents(torch.zeros(4, 1), torch.zeros(4, 1), tokens, torch.ones_like(tokens))
    empty = (latents.draw(4000, seeded())[1] == 7).float().mean()
    assert empty == pytest.approx(denoiser.CAPTION_DROPOUT, abs=0.02)


def test_defects_keep_shape_and_range_and_are_seeded() -> None:
    frames = data.training_clips(8, 0).frames
    distorted = defects.distort(frames, seeded())
    assert distorted.shape == frames.shape
    assert distorted.min() >= 0
    assert distorted.max() <= 1
    assert torch.equal(distorted, defects.distort(frames, seeded()))
    generator = seeded()
    lengths = {defects.thin(frames, generator).shape[1] for _ in range(50)}
    assert 9 in lengths
    assert min(lengths) >= 3


def test_an_interrupted_run_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = model.build_vae()
    for run in ("whole", "broken"):
        net.save_pretrained(tmp_path / run / "vae")

    def train(run: str, stop_at: int) -> dict[str, torch.Tensor]:
        folder = denoiser.train_denoiser(
            tmp_path / run,
            common.Budget(steps=4, batch=2, learning_rate=1e-2, warmup=1),
            save_every=2,
            final_clips=0,
            weights=tmp_path / run / "weights",
            on_step=_StopAt(stop_at),
            clip_count=24,
        )
        return model.load_pipeline(folder).transformer.state_dict()

    whole = train("whole", stop_at=99)
    with pytest.raises(KeyboardInterrupt):
        train("broken", stop_at=3)  # the checkpoint is of step 2
    resumed = train("broken", stop_at=99)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    again = train("broken", stop_at=0)  # is at its end
    assert all(torch.equal(whole[key], again[key]) for key in whole)


class _Straight(nn.Module):
    """A teacher whose velocity is 2 with a prompt and 1 without."""

    def forward(self, latents: torch.Tensor, sigma: torch.Tensor, tokens: torch.Tensor, *_: torch.Tensor) -> Any:
        asked = (tokens[:, 1] != 0).float()  # an empty prompt is its end alone
        return (1 + asked).view(-1, 1, 1, 1, 1).expand_as(latents)


def test_a_step_of_the_student_is_what_guidance_does_in_several() -> None:
    prompts = ["a red circle moving left on a black background"] * 3
    paths = few_steps.guided_paths(_Straight(), prompts, 0, guidance_scale=3.0)  # type: ignore[arg-type]
    assert paths.latents.shape == (3, few_steps.STEPS + 1, *few_steps.LATENT_SHAPE)
    levels = torch.tensor(few_steps.noise_levels()).view(1, -1, 1, 1, 1, 1)
    noise = paths.latents[:, :1]
    assert torch.allclose(paths.latents, noise + 4 * (levels - 1), atol=1e-5)  # 1 + 3 (2 - 1)
    right = few_steps.step_loss(lambda latents, *_: torch.full_like(latents, 4.0), paths, 32, seeded())
    wrong = few_steps.step_loss(lambda latents, *_: torch.full_like(latents, 3.0), paths, 32, seeded())
    assert right < 1e-8
    assert wrong == pytest.approx(1, abs=1e-4)


def test_the_student_is_a_variant_beside_its_teacher_and_resumes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model.build_vae().save_pretrained(tmp_path / "vae")
    budget = common.Budget(steps=1, batch=2, learning_rate=1e-2, warmup=1)
    weights = denoiser.train_denoiser(tmp_path, budget, final_clips=0, weights=tmp_path / "weights", clip_count=8)
    before = model.load_pipeline(weights).transformer.state_dict()

    def train(out: Path, steps: int) -> dict[str, torch.Tensor]:
        out.mkdir(exist_ok=True)
        for name in ("denoiser.pt", "vae"):
            if not (out / name).exists():
                (out / name).symlink_to(tmp_path / name)
        asked = common.Budget(steps=2, batch=2, learning_rate=1e-2, warmup=1, minutes=math.inf)
        stop = _StopAt(steps + 1)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            loss_of = few_steps.step_loss
            patch.setattr(few_steps, "step_loss", lambda *given: stop.count() or loss_of(*given))
            few_steps.train_few_steps(out, asked, save_every=1, check_clips=0, weights=weights, path_count=4)
        saved = common.load_checkpoint(out / "few_steps.pt")
        assert saved is not None
        assert saved["step"] == steps
        return saved["model"]

    whole = train(tmp_path / "whole", 2)
    train(tmp_path / "broken", 1)
    resumed = train(tmp_path / "broken", 2)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    plain = model.load_pipeline(weights).transformer.state_dict()
    assert all(torch.equal(plain[name], before[name]) for name in before)
    student = WanTransformer3DModel.from_pretrained(weights / "transformer", variant=few_steps.VARIANT).state_dict()
    assert any(not torch.equal(student[name].float(), before[name]) for name in before)


@pytest.mark.slow
def test_an_interrupted_vae_ends_like_an_unbroken_one_and_keeps_its_later_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny: dict[str, Any] = {"clip_count": 12, "held_out_every": 50}
    budget = common.Budget(steps=3, batch=2, learning_rate=1e-2, warmup=1)
    for run, stop_at in (("whole", 99), ("broken", 2), ("broken", 99)):
        stop, loss_of = _StopAt(stop_at), vae.vae_loss
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(vae, "vae_loss", lambda *given, stop=stop, loss_of=loss_of: stop.count() or loss_of(*given))
            vae.train_vae(tmp_path / run, budget, save_every=1, **tiny)
    whole, broken = (common.load_checkpoint(tmp_path / run / "vae.pt") for run in ("whole", "broken"))
    assert whole is not None
    assert broken is not None
    assert all(torch.equal(whole["model"][key], broken["model"][key]) for key in whole["model"])
    decoder.train_decoder(tmp_path / "whole", budget, **tiny)
    tuned = AutoencoderKLWan.from_pretrained(tmp_path / "whole" / "vae").state_dict()
    assert any(not torch.equal(tuned[key], whole["average"][key]) for key in tuned if key.startswith("decoder"))
    assert all(torch.equal(tuned[key], whole["average"][key]) for key in tuned if key.startswith("encoder"))
    vae.train_vae(tmp_path / "whole", budget, **tiny)
    decoder.train_decoder(tmp_path / "whole", budget, **tiny)
    kept = AutoencoderKLWan.from_pretrained(tmp_path / "whole" / "vae").state_dict()
    assert all(torch.equal(kept[key], tuned[key]) for key in kept)


class _StopAt:
    """Interrupts training after a given optimizer step, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step, self.calls = step, 0

    def __call__(self, step: int) -> None:
        if step == self.step:
            raise KeyboardInterrupt

    def count(self) -> None:
        """The same, where nobody says which step it is."""
        self.calls += 1
        self(self.calls)
