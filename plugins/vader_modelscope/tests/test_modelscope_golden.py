"""The reference's numbers, from start latents to frames and LoRA gradients: each scheduler, window and frame mode."""

import functools

import pytest
import torch

from vader import Prompt, Video
from vader.diffusion.frames import choose, from_signed
from vader.diffusion.gradient import window
from vader.diffusion.rollout import rollout
from vader.resolve.components import ResolvedComponent
from vader.resolve.conversion import convert_adapter
from vader.spec import AdapterSpec
from vader.weights.lora import inject, restore, spec_of, state_dict
from vader_modelscope.backbone import ModelScope, ModelScopeOptions

CPU = torch.device("cpu")
VIDEO = Video(4, 16, 16, 8.0)
STEPS, GUIDANCE = 4, 9.0
FRAMES_ALONE = ("ddim_last_alt", "ddim_last_all", "ddim_last_rand", "dpm_last_alt", "dpm_last_all", "ddim_og_cut1")
WITH_GRADIENT = ("ddim_last_f0", "ddim_cut1_f1", "dpm_last_f0", "dpm_cut1_f1", "ddim_og_last")


class Start:
    """The recorded start latents, then no noise."""

    def __init__(self, start):
        self._next = start

    def draw(self):
        drawn, self._next = self._next, torch.zeros_like(self._next)
        return drawn


def assert_near(found, expected, what=""):
    """Within 1e-4, relative to the largest number of the tensor."""
    assert found.shape == expected.shape
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 1e-4, f"{what}: relative error {error:.2e}"


@pytest.fixture
def adapted(small, golden):
    """The small model with the recorded peft adapter (rank 4, alpha 8)."""
    inject(small.denoiser, AdapterSpec(rank=4, alpha=8), small.lora_target_modules, seed=0)
    restore(small.denoiser, golden.under("lora."), "golden")
    return small


def clip(sampler, backbone, golden, run):
    """Frames before clamping, ``(b f 3 h w)``, made as the reference made those of a run."""
    facts, tensors = golden.facts, golden.tensors
    about = facts["runs"][run]
    steps = sampler(backbone, STEPS, about["scheduler"])
    assert steps.timesteps.tolist() == about["timesteps"]
    start = 0 if about["cutoff"] is None else about["cutoff"]
    mode = "last" if about["backprop_mode"] == "last" else "specific"
    drawn = window(mode, STEPS, from_step=start, original=about["decode_og"])(None)
    latents = rollout(
        functools.partial(backbone.predict, backbone.denoiser),
        steps,
        backbone.encode([*map(Prompt, facts["prompts"])]),
        Start(tensors["start_latents"]),
        drawn,
        guidance_scale=GUIDANCE,
    )
    return backbone.decode_signed(latents, frames_of(about, tensors[f"{run}.frames"], backbone, latents))


def frames_of(about, recorded, backbone, latents):
    """The frame mode of a run in our words; of the random one, the frame that was drawn."""
    mode = about["decode_frame"]
    if mode in ("alt", "all"):
        return choose(mode, VIDEO.frames, None)
    if mode != -1:
        return choose("index", VIDEO.frames, None, mode)
    with torch.no_grad():
        distances = (backbone.decode_signed(latents)[0] - recorded[:, :, 0]).abs().amax(dim=(1, 2, 3))
    return [int(distances.argmin())]


def as_ours(recorded):
    """``(b 3 1 h w)`` or ``(f 3 h w)`` of the reference to ``(1 f 3 h w)``."""
    return recorded.transpose(1, 2) if recorded.ndim == 5 else recorded[None]


def test_text_encoder(small, golden):
    facts, tensors = golden.facts, golden.tensors
    with torch.no_grad():
        conditioning = small.encode([*map(Prompt, facts["prompts"])])
    assert_near(conditioning.positive["encoder_hidden_states"], tensors["prompt_embeds"])
    assert_near(conditioning.negative["encoder_hidden_states"], tensors["negative_prompt_embeds"])


@torch.no_grad()
def test_unet(small, golden):
    recorded = golden.under("unetfwd.")
    step = torch.full((1,), 501)
    assert_near(
        small.predict(small.denoiser, recorded["sample"], step, {"encoder_hidden_states": recorded["context"]}),
        recorded["out"],
    )


@pytest.mark.parametrize("steps", [4, 25, 50])
@pytest.mark.parametrize("kind", ["ddim", "dpm"])
def test_timesteps(sampler, small, golden, kind, steps):
    assert sampler(small, steps, kind).timesteps.tolist() == golden.facts["timesteps"][f"{kind}{steps}"]


@torch.no_grad()
@pytest.mark.parametrize("run", FRAMES_ALONE)
def test_frames(sampler, adapted, golden, run):
    assert_frames(clip(sampler, adapted, golden, run), golden, run)


@pytest.mark.parametrize("run", WITH_GRADIENT)
def test_frames_and_gradients(sampler, adapted, golden, run):
    assert_gradients(sampler, adapted, golden, run)


def test_frames_and_gradients_with_checkpointing(sampler, adapted, golden):
    adapted.enable_gradient_checkpointing()
    assert_gradients(sampler, adapted, golden, "dpm_cut1_f1")


def assert_frames(found, golden, run):
    expected = golden.tensors[f"{run}.frames"]
    assert_near(found, as_ours(expected), run)
    assert float(found.detach().square().mean()) == pytest.approx(golden.facts["runs"][run]["loss"], rel=1e-4)


def assert_gradients(sampler, adapted, golden, run):
    frames = clip(sampler, adapted, golden, run)
    assert_frames(frames, golden, run)
    frames.square().mean().backward()
    recorded = golden.under(f"{run}.grad.")
    found = {
        name.replace(".default.", "."): parameter.grad
        for name, parameter in adapted.denoiser.named_parameters()
        if parameter.requires_grad
    }
    assert found.keys() == recorded.keys() == state_dict(adapted.denoiser).keys()
    for name, gradient in recorded.items():
        assert_near(found[name], gradient, name)
    norm = torch.stack([gradient.norm() for gradient in found.values()]).norm()
    assert float(norm) == pytest.approx(golden.facts["runs"][run]["gradnorm"], rel=1e-4)


def test_the_reference_s_own_lora_file(sampler, small, small_folder, golden, tmp_path):
    torch.save(golden.lora_list(), tmp_path / "450_unet.pt")
    options = ModelScopeOptions(weights=str(small_folder))
    convert_adapter(
        ResolvedComponent("backbone", "modelscope", ModelScope, options), tmp_path / "450_unet.pt", tmp_path / "adapter"
    )
    shape = spec_of(tmp_path / "adapter")
    assert (shape.rank, shape.alpha) == (4, 4)
    inject(small.denoiser, shape, (), seed=0)
    frames = clip(sampler, small, golden, "clone_ddim_last_f0")
    assert_frames(frames, golden, "clone_ddim_last_f0")
    frames.square().mean().backward()
    found = {
        name.replace("lora_A.default", "lora_down").replace("lora_B.default", "lora_up"): float(parameter.grad.norm())
        for name, parameter in small.denoiser.named_parameters()
        if parameter.requires_grad
    }
    assert found == pytest.approx(golden.facts["cloneofsimo"]["grad_norms_ddim_last_f0"], rel=1e-4)


def test_frames_are_clamped_after_the_vae(small):
    latents = 20 * torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        signed, frames = small.decode_signed(latents, [1]), small.decode(latents, [1])
    assert signed.abs().max() > 1
    assert torch.equal(frames, from_signed(signed))
