"""CogVideoX gives the numbers of diffusers' own pipeline: latents, frames and the gradients of adapters."""

import copy
import functools
import re

import pytest
import torch

from vader import Prompt, Runtime, SamplerContext, Video
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import rollout
from vader.diffusion.samplers.ddim import DDIM
from vader.spec import AdapterSpec
from vader.weights.lora import inject, save
from vader_diffusers import tiny
from vader_diffusers.cogvideox import CogVideoX, CogVideoXOptions

CPU, PROMPTS, STEPS, TOKENS = torch.device("cpu"), ["a fox", "a boat in a storm"], 5, 32
KINDS = {"2b": {}, "5b": {"use_rotary_positional_embeddings": True}}


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """Folder and diffusers' pipeline, of the 2B model's kind and of the 5B's."""
    from diffusers import CogVideoXPipeline

    sizes = {"max_text_seq_length": TOKENS, **KINDS[request.param]}
    folder = tiny.write(tmp_path_factory.mktemp("cogvideox") / "tiny", 0, "cogvideox", **sizes)
    pipeline = CogVideoXPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return folder, pipeline


def load(folder, dtype=torch.float32, **options):
    return CogVideoX(CogVideoXOptions(weights=str(folder), max_sequence_length=TOKENS, **options), Runtime(CPU, dtype))


class Given:
    """Latents that a clip starts from, in the place of noise."""

    def __init__(self, start):
        self.draw = iter([start, *[torch.zeros_like(start)] * STEPS]).__next__


def ours(backbone, start, window, scale, seen=None):
    sampler = DDIM(DDIM.Options(), SamplerContext(backbone.schedule, STEPS, 0.0, Video(9, 32, 32), CPU))
    scales = [backbone.guidance_scale_at(scale, time, STEPS) for time in sampler.timesteps.tolist()]
    keep = (lambda i, x, out: seen.append(out.prev)) if seen is not None else None
    conditioning = backbone.encode([*map(Prompt, PROMPTS)])
    predict = functools.partial(backbone.predict, backbone.denoiser)
    return rollout(
        predict, sampler, conditioning, Given(start), window, guidance_scale=scales, recompute=False, on_step=keep
    )


def noise(backbone, video, seed=0):
    return torch.randn(2, *backbone.latent_shape(video), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize(("scale", "dynamic"), [(1.0, False), (6.0, False), (6.0, True)])
@pytest.mark.parametrize("video", [Video(9, 32, 32), Video(1, 48, 32), Video(17, 16, 48)], ids=str)
def test_latents_and_frames_equal_the_pipeline(made, video, scale, dynamic):
    folder, pipeline = made
    backbone = load(folder, dynamic_guidance=dynamic)
    start, seen, expected = noise(backbone, video), [], []

    def keep(pipeline, i, t, kwargs):
        expected.append(kwargs["latents"].transpose(1, 2))
        return {}

    size = {"num_frames": video.frames, "height": video.height, "width": video.width, "max_sequence_length": TOKENS}
    given = {"guidance_scale": scale, "use_dynamic_cfg": dynamic, "num_inference_steps": STEPS, "output_type": "pt"}
    frames = pipeline(PROMPTS, latents=start.transpose(1, 2), callback_on_step_end=keep, **size, **given).frames
    clean = ours(backbone, start, Window(STEPS, STEPS), scale, seen)
    for found, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.decode(clean), frames, atol=1e-5, rtol=0)
    some = [video.frames - 1, 0, video.frames // 2]
    torch.testing.assert_close(backbone.decode(clean, some), frames[:, some], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_adapter_gradients_equal_autograd_through_the_pipeline(made, scale, tmp_path):
    """The last two steps and the decoder, against the pipeline's modules, its scheduler and its arithmetic."""
    folder, pipeline = made
    backbone, theirs = load(folder), copy.deepcopy(pipeline)
    spec, targets = AdapterSpec(rank=3), CogVideoX.lora_target_modules
    mine = inject(backbone.denoiser, spec, targets, seed=0)
    with torch.no_grad():
        for index, parameter in enumerate(mine):
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(index))
    (tmp_path / "adapter").mkdir()
    save(backbone.denoiser, tmp_path / "adapter", CogVideoX.denoiser_name)
    theirs.load_lora_weights(tmp_path / "adapter", adapter_name="default")
    start = noise(backbone, Video(9, 32, 32))
    clean = ours(backbone, start, Window(STEPS - 2, STEPS), scale)
    loss = backbone.decode(clean, [8, 2]).square().mean()
    found = torch.autograd.grad(loss, mine)

    scheduler, x = theirs.scheduler, start.transpose(1, 2)
    scheduler.set_timesteps(STEPS)
    yes, no = theirs.encode_prompt(PROMPTS, "", True, max_sequence_length=TOKENS, device=CPU)
    rotary = theirs.transformer.config.use_rotary_positional_embeddings
    turned = theirs._prepare_rotary_positional_embeddings(32, 32, x.shape[1], CPU) if rotary else None
    for i, t in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(i >= STEPS - 2):
            call = functools.partial(theirs.transformer, x, timestep=t.expand(2), image_rotary_emb=turned)
            positive, negative = (call(encoder_hidden_states=embeds).sample for embeds in (yes, no))
            x = scheduler.step(negative + scale * (positive - negative), t, x, return_dict=False)[0]
    frames = theirs.decode_latents(x) / 2 + 0.5
    wanted = frames.clamp(0, 1)[:, :, [8, 2]].square().mean()
    named = {re.sub(r"\.default\.", ".", n): p for n, p in theirs.transformer.named_parameters() if ".lora_" in n}
    ordered = [
        named[re.sub(r"\.default\.", ".", n)] for n, p in backbone.denoiser.named_parameters() if p.requires_grad
    ]
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=0)
    for gradient, expected in zip(found, torch.autograd.grad(wanted, ordered), strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=0)
        assert expected.abs().max() > 0
