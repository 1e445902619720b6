"""What the tests of two experts share: a backbone with a random adapter, and its clips."""

import functools

import torch
from plugins.vader_diffusers.tests.parity import CPU, loaded

from vader import SamplerContext, Video
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.diffusion.samplers.flow_euler import FlowEuler, FlowEulerOptions
from vader.spec import AdapterSpec
from vader.weights.lora import inject
from vader_diffusers.wan22 import Wan22

VIDEO, STEPS = Video(5, 32, 32), 4


def adapted(folder, dtype=torch.float32, **options):
    """A backbone with a random adapter, and the adapter's parameters by name."""
    backbone = loaded(Wan22, folder, dtype, VIDEO, **options)
    inject(backbone.denoiser, AdapterSpec(rank=2), Wan22.lora_target_modules, 0, without=backbone.without_adapter())
    mine = {name: p for name, p in backbone.denoiser.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for index, parameter in enumerate(mine.values()):
            parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(index))
    return backbone, mine


def clean(backbone, conditioning, recompute=False, dtype=torch.float32):
    sampler = FlowEuler(FlowEulerOptions(), SamplerContext(backbone.schedule, STEPS, 0.0, VIDEO, CPU))
    noise = ClipNoise((3, 4), backbone.latent_shape(VIDEO), CPU, dtype)
    predict = functools.partial(backbone.predict, backbone.denoiser)
    return rollout(
        predict, sampler, conditioning, noise, Window(0, STEPS), guidance_scale=3.0, recompute=recompute
    ), sampler
