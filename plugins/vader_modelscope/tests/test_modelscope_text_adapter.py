"""An adapter on the text encoder: gradient reaches it, and it is that of encoding once with gradient."""

import pytest
import torch
from diffusers import UNet3DConditionModel

from vader import Prompt, Video, WeightsError
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.spec import AdapterSpec
from vader.weights.lora import inject

VIDEO = Video(4, 32, 32, 8.0)
PROMPTS = ["a red fox", "blue"]


@pytest.fixture
def adapted(load):
    """A backbone whose adapter, B included, is random in UNet and text encoder."""
    backbone = load(text_adapter=True)
    generator = torch.Generator().manual_seed(5)
    for parameter in inject(backbone.denoiser, AdapterSpec(rank=2), backbone.lora_target_modules, seed=0):
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return backbone


def gradients(backbone, latents, frames):
    """Of the adapter, for the frames' mean square; they are taken away from the backbone."""
    backbone.decode(latents, frames).square().mean().backward()
    found = {name: p.grad for name, p in backbone.denoiser.named_parameters() if p.requires_grad}
    backbone.denoiser.zero_grad(set_to_none=True)
    return found


@torch.no_grad()
def test_without_an_adapter_clips_are_the_same(load, modelscope, clips):
    backbone = load(text_adapter=True)
    tokens = backbone.encode([*map(Prompt, PROMPTS)]).positive["encoder_hidden_states"]
    assert (tokens.shape, tokens.dtype) == ((2, 77, 1), torch.int64)
    torch.testing.assert_close(clips(backbone, PROMPTS), clips(modelscope, PROMPTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("start", [0, 2])
def test_gradient_is_that_of_encoding_once_with_gradient(adapted, clips, sampler, start):
    """The window's steps carry it, whether the prompt is encoded in each or once before."""
    window = Window(start, 3)
    found = gradients(adapted, clips(adapted, PROMPTS, 3, window), [0, 2])

    def predict(latents, timestep, branch):
        return UNet3DConditionModel.forward(adapted.denoiser, latents, timestep, **branch, return_dict=False)[0]

    with torch.no_grad():
        tokens = adapted.encode([*map(Prompt, PROMPTS)])
    once = tokens.map(lambda ids: adapted.text_encoder(ids[..., 0]).last_hidden_state)
    noise = ClipNoise((1, 2), adapted.latent_shape(VIDEO), torch.device("cpu"), torch.float32)
    clean = rollout(predict, sampler(adapted, 3), once, noise, window, guidance_scale=5.0)
    expected = gradients(adapted, clean, [0, 2])
    assert sum("text_encoder" in name for name in expected) == 2 * 4 * 2  # layers, projections, A and B
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_gradient_checkpointing_gives_the_same(adapted, clips):
    plain = gradients(adapted, clips(adapted, PROMPTS, 2, Window(1, 2)), [0])
    adapted.enable_gradient_checkpointing()
    for name, gradient in gradients(adapted, clips(adapted, PROMPTS, 2, Window(1, 2)), [0]).items():
        assert torch.equal(gradient, plain[name]), name


def test_an_adapter_that_leaves_the_text_encoder_out_is_refused(load, clips):
    backbone = load(text_adapter=True)
    inject(backbone.denoiser, AdapterSpec(rank=2), ("to_q",), seed=0)
    clips(backbone, PROMPTS)  # nothing trains without gradient
    with pytest.raises(WeightsError, match=r"no layer of the text encoder.*target_modules \(q_proj"):
        clips(backbone, PROMPTS, 2, Window(1, 2))
