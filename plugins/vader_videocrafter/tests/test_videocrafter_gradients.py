"""Gradients through the denoiser and the first stage are right, recomputed or not; and bfloat16 works."""

import functools

import torch

from vader import Prompt, SamplerContext, Video
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import ClipNoise, rollout
from vader_videocrafter import network
from vader_videocrafter.sampler import VideoCrafterDDIM, VideoCrafterDDIMOptions

CPU = torch.device("cpu")
VIDEO = Video(4, 16, 16, 24.0)


def noise(backbone):
    return ClipNoise((3,), backbone.latent_shape(VIDEO), CPU, torch.float32)


def test_gradient_against_finite_differences(load):
    backbone = load()
    backbone.denoiser.double(), backbone.vae.double()
    latents = noise(backbone).draw().double()
    embeds = backbone.encode([Prompt("a fox")]).positive["embeds"].detach().double()
    weight = torch.randn(1, 2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step, fps = torch.tensor([400]), torch.tensor([24.0])

    def value(x):
        out = backbone.denoiser(x, step, embeds, timestep_cond=fps, return_dict=False)[0]
        return (network.pixels(backbone.vae, (x - 0.4 * out)[:, :, [1, 3]] * 0.1, 1) * weight).sum()

    start = (latents * 0.5).requires_grad_()
    direction = torch.randn(start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(value(start), start)
    with torch.no_grad():
        measured = (value(start + 1e-5 * direction) - value(start - 1e-5 * direction)) / 2e-5
    assert gradient.abs().max() > 0
    torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-5, atol=0)


def test_gradient_checkpointing_gives_the_same_gradients(load):
    backbone, saved = load(), []
    conditioning = backbone.encode([Prompt("a fox")]).detach()

    def gradient():
        saved.clear()
        x = noise(backbone).draw().requires_grad_()
        keep = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t)
        with keep:
            out = backbone.predict(backbone.denoiser, x, torch.tensor([400]), conditioning.positive)
        held = sum(saved)
        out.square().sum().backward()
        return x.grad, held

    plain, before = gradient()
    backbone.enable_gradient_checkpointing()
    recomputed, after = gradient()
    torch.testing.assert_close(recomputed, plain, atol=0, rtol=0)
    assert after < before / 3


@torch.no_grad()
def test_bf16(load):
    backbone = load(dtype=torch.bfloat16)
    assert backbone.denoiser.dtype == backbone.text_encoder.token_embedding.weight.dtype == torch.bfloat16
    assert backbone.vae.dtype == torch.float32
    sampler = VideoCrafterDDIM(VideoCrafterDDIMOptions(), SamplerContext(backbone.schedule, 2, 0.0, VIDEO, CPU))
    latents = rollout(
        functools.partial(backbone.predict, backbone.denoiser),
        sampler,
        backbone.encode([Prompt("a fox")]),
        noise(backbone),
        Window(2, 2),
        guidance_scale=7.0,
    )
    frames = backbone.decode(latents)
    assert latents.dtype == frames.dtype == torch.float32
    assert frames.isfinite().all()
    assert 0 <= frames.min() <= frames.max() <= 1
