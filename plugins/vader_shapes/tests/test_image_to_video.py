"""The embedded model takes the scheme of TI2V: its first latent frame is held, and the clip goes on from it."""

import functools
import random

import pytest
import torch

from vader import Prompt, Runtime, SamplerContext, Video
from vader.backbones.images import opened, pixels
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.diffusion.samplers.flow_euler import FlowEuler, FlowEulerOptions
from vader_shapes.backbone import Shapes
from vader_shapes.evaluator import accuracy
from vader_shapes.image_to_video import ShapesI2V
from vader_shapes.prompts import ShapesPrompts

CPU, VIDEO, STEPS = torch.device("cpu"), Video(9, 32, 32, 8.0), 12


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("first frames"))
    return ShapesPrompts(ShapesPrompts.Options(world="one", images=folder)).draw(8, random.Random(0))


@pytest.fixture(scope="module")
def model():
    return ShapesI2V(ShapesI2V.Options(), Runtime(CPU, torch.float32), VIDEO)


def clip(model, prompts, scale=1.0):
    sampler = FlowEuler(FlowEulerOptions(), SamplerContext(model.schedule, STEPS, 0.0, VIDEO, CPU))
    noise = ClipNoise(range(len(prompts)), model.latent_shape(VIDEO), CPU, torch.float32)
    predict = functools.partial(model.predict, model.denoiser)
    with torch.no_grad():
        return rollout(predict, sampler, model.encode(prompts), noise, Window(STEPS, STEPS), guidance_scale=scale)


@torch.no_grad()
def test_clips_begin_with_their_image_and_go_on_as_the_prompt_says(model, prompts):
    latents = clip(model, prompts, 2.0)
    given = model.encode(prompts).positive["first_latents"]
    torch.testing.assert_close(latents[:, :, :1], given, atol=1e-5, rtol=0)
    frames, images = model.decode(latents), torch.cat([pixels(model, opened(p.image)) for p in prompts])
    assert (frames[:, 0] - (images / 2 + 0.5)).abs().mean() < 0.02  # what the autoencoder loses
    assert accuracy(frames, [p.text for p in prompts])["all"].float().mean() > 0.85


@torch.no_grad()
def test_prompts_without_an_image_give_the_clips_of_the_text_model(model, prompts):
    texts = [Prompt(prompt.text) for prompt in prompts[:3]]
    plain = Shapes(Shapes.Options(), Runtime(CPU, torch.float32), VIDEO)
    torch.testing.assert_close(clip(model, texts), clip(plain, texts), atol=1e-4, rtol=0)
    mixed = clip(model, [texts[0], *prompts[1:3]])
    torch.testing.assert_close(mixed[:1], clip(model, texts)[:1], atol=1e-4, rtol=0)
    torch.testing.assert_close(mixed[1:], clip(model, prompts[:3])[1:], atol=1e-4, rtol=0)
