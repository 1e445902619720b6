"""The backbone: what it promises of itself, conditioning, decoding, gradients."""

import copy
import functools
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import yaml

from vader import Prompt, RunSpec, SamplerContext, Video
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.protocols import Backbone, Sampler
from vader_opensora import __file__ as package
from vader_opensora import text
from vader_opensora.backbone import OpenSora, OpenSoraOptions
from vader_opensora.sampler import OpenSoraRFlow, OpenSoraRFlowOptions

CLIP = Video(20, 32, 48, 24.0)
PROMPTS = ["A red  fox &amp; a café", "blue"]
ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(load):
    """Two windows of time: 17 and 3 frames, 5 and 1 latent frames. Tests do not change it."""
    return load(video=CLIP)


def roll(backbone, window, steps=3, seeds=(3,), prompts=PROMPTS[:1]):
    flow = OpenSoraRFlow(OpenSoraRFlowOptions(), SamplerContext(backbone.schedule, steps, 0.0, backbone.video, CPU))
    predict = functools.partial(backbone.predict, backbone.denoiser)
    with torch.no_grad():
        conditioning = backbone.encode([*map(Prompt, prompts)])
    noise = ClipNoise(seeds, backbone.latent_shape(backbone.video), CPU, torch.float32)
    return rollout(predict, flow, conditioning, noise, window, guidance_scale=7.0)


@pytest.fixture
def latents(backbone):
    return torch.randn(1, *backbone.latent_shape(CLIP), generator=torch.Generator().manual_seed(0))


def test_is_a_backbone(backbone):
    assert isinstance(backbone, Backbone)
    assert backbone.latent_shape(CLIP) == (4, 6, 4, 6)
    assert backbone.schedule.prediction == "flow"
    for module in (backbone.denoiser, backbone.text_encoder, backbone.vae):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_its_sampler_is_a_sampler(backbone):
    context = SamplerContext(backbone.schedule, 2, 0.0, CLIP, CPU)
    assert isinstance(OpenSoraRFlow(OpenSoraRFlowOptions(), context), Sampler)
    (entry,) = entry_points(group="vader.samplers", name=OpenSora.default_sampler)
    assert entry.load() is OpenSoraRFlow


def test_entry_point():
    (entry,) = entry_points(group="vader.backbones", name="opensora")
    assert entry.load() is OpenSora


def test_import_is_light():
    code = "import sys, vader_opensora.backbone, vader_opensora.sampler; print(sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = ("torch", "diffusers", "transformers", "peft", "bs4", "ftfy", "huggingface_hub")
    assert not [name for name in heavy if f"'{name}'" in result.stdout]


@torch.no_grad()
def test_encode(backbone):
    conditioning = backbone.encode([*map(Prompt, PROMPTS)])
    tokens = backbone.tokenizer(text.prepare(PROMPTS[0], 6.5, None, None)).input_ids
    assert conditioning.positive["mask"].sum(dim=1)[0] == len(tokens)
    expected = backbone.text_encoder(torch.tensor([tokens])).last_hidden_state[0]
    torch.testing.assert_close(conditioning.positive["embeds"][0, : len(tokens)], expected, rtol=1e-4, atol=1e-5)
    empty = backbone.denoiser.y_embedder.y_embedding
    assert torch.equal(conditioning.negative["embeds"], empty.expand(2, -1, -1))
    assert conditioning.positive["embeds"].shape == (2, *empty.shape)


@torch.no_grad()
def test_prompts_carry_the_scores_asked_for(load):
    scored = load(aesthetic_score=5.0, motion_score=2.0, camera_motion="pan right").encode([Prompt("a fox")])
    plain = load(aesthetic_score=None)
    written = plain.encode([Prompt("a fox aesthetic score: 5.0. motion score: 2.0. camera motion: pan right.")])
    assert torch.equal(scored.positive["embeds"], written.positive["embeds"])
    assert not torch.equal(plain.encode([Prompt("a fox")]).positive["mask"], scored.positive["mask"])


@torch.no_grad()
def test_text_encoder_on_the_cpu_gives_the_same(backbone, load):
    offloaded = load(text_encoder_offload="cpu")
    assert torch.equal(
        offloaded.encode([*map(Prompt, PROMPTS)]).positive["embeds"],
        backbone.encode([*map(Prompt, PROMPTS)]).positive["embeds"],
    )


@torch.no_grad()
def test_the_denoiser_is_told_size_and_fps(backbone, latents):
    conditioning = backbone.encode([*map(Prompt, PROMPTS[:1])])
    given = (torch.full((1,), 400.0), conditioning.positive)

    def predict(video):
        other = copy.copy(backbone)
        other.video = video
        return other.predict(other.denoiser, latents, *given)

    base = predict(CLIP)
    assert torch.equal(base, backbone.predict(backbone.denoiser, latents, *given))
    assert not torch.equal(base, predict(Video(20, 32, 48, 8.0)))
    assert not torch.equal(base, predict(Video(20, 64, 48, 24.0)))
    assert torch.equal(predict(Video(1, 32, 48, 24.0)), predict(Video(1, 32, 48, 8.0))), "an image has no fps"


@torch.no_grad()
@pytest.mark.parametrize("frames", [[0], [16], [17], [19], [3, 18], [19, 0, 17], [1, 1]], ids=str)
def test_decode_of_some_frames_equals_the_whole(backbone, latents, frames):
    whole = backbone.decode(latents)
    assert whole.shape == (1, 20, 3, 32, 48)
    assert 0 <= whole.min() < whole.max() <= 1
    torch.testing.assert_close(backbone.decode(latents, frames), whole[:, frames], rtol=0, atol=1e-5)


def test_gradient_of_a_frame_stays_in_its_window(backbone, latents):
    latents.requires_grad_()
    backbone.decode(latents, [18]).sum().backward()
    assert (latents.grad.abs().sum(dim=(0, 1, 3, 4)) > 0).tolist() == [False] * 5 + [True]


@pytest.mark.parametrize("frames", [[20], [-1], []])
def test_decode_of_a_frame_that_is_not_there(backbone, latents, frames):
    with pytest.raises(IndexError, match="0 to 19"):
        backbone.decode(latents, frames)


def test_decode_of_another_clip(backbone, latents):
    with pytest.raises(ValueError, match=r"cannot decode 5 latent frames; 6 latent frames hold a clip of 20"):
        backbone.decode(latents[:, :, :5])


def test_latents_of_another_clip(backbone):
    with pytest.raises(ValueError, match="built for Video"):
        backbone.latent_shape(Video(51, 240, 426, 24.0))


def test_clip_of_the_options(load):
    backbone = load(resolution="144p", aspect_ratio="3:4", length="4s")
    assert backbone.video == Video(102, 166, 221, 24.0)
    assert backbone.latent_shape(backbone.video) == (4, 30, 20, 27)


@torch.no_grad()
def test_decode_is_float32_inside_autocast(backbone, latents):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = backbone.decode(latents, [0])
    assert torch.equal(inside, backbone.decode(latents, [0]))


@torch.no_grad()
def test_clips_do_not_depend_on_their_batch(backbone):
    both = roll(backbone, Window(3, 3), seeds=(3, 4), prompts=PROMPTS)
    alone = roll(backbone, Window(3, 3), seeds=(4,), prompts=PROMPTS[1:])
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)


def test_gradient_reaches_the_adapter_alone(load):
    from vader.spec import AdapterSpec
    from vader.weights import lora as adapters

    backbone = load(video=CLIP)
    plain = roll(backbone, Window(3, 3))
    adapters.inject(backbone.denoiser, AdapterSpec(rank=2), OpenSora.lora_target_modules, seed=0)
    torch.testing.assert_close(roll(backbone, Window(3, 3)), plain, rtol=0, atol=0)
    backbone.decode(roll(backbone, Window(2, 3)), [0]).mean().backward()
    trained = {name: p for name, p in backbone.denoiser.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 3 * 2  # depth, kinds of block, layers, A and B
    assert all(p.grad.abs().sum() > 0 for name, p in trained.items() if "lora_B" in name)
    frozen = [*backbone.vae.parameters(), *backbone.text_encoder.parameters()]
    assert all(p.grad is None for p in frozen)


def test_gradient_checkpointing_gives_the_same_gradients(load, latents):
    backbone = load(video=CLIP)
    with torch.no_grad():
        conditioning = backbone.encode([*map(Prompt, PROMPTS[:1])])

    def gradient():
        x = latents.clone().requires_grad_()
        time = torch.full((1,), 400.0)
        output = backbone.predict(backbone.denoiser, x, time, conditioning.positive)
        output.square().sum().backward()
        return x.grad

    plain = gradient()
    assert not backbone.denoiser.is_gradient_checkpointing
    backbone.enable_gradient_checkpointing()
    assert backbone.denoiser.is_gradient_checkpointing
    torch.testing.assert_close(gradient(), plain, atol=0, rtol=0)


@torch.no_grad()
def test_bf16(load, backbone):
    half = load(dtype=torch.bfloat16, video=CLIP)
    assert half.denoiser.dtype == half.text_encoder.dtype == torch.bfloat16
    assert half.vae.scale.dtype == half.denoiser.rope.freqs.dtype == torch.float32
    frames, expected = (one.decode(roll(one, Window(3, 3))) for one in (half, backbone))
    assert frames.dtype == torch.float32
    assert 0 < (frames - expected).abs().mean() < 0.02


def test_options_are_described():
    for options in (OpenSoraOptions, OpenSoraRFlowOptions):
        assert all(field.description for field in options.model_fields.values())


def test_readme_shows_a_valid_spec_and_every_option():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    judge(yaml.safe_load(re.search(r"```yaml\n(.*?)```", readme, re.DOTALL).group(1)))
    for options in (OpenSoraOptions, OpenSoraRFlowOptions):
        assert all(f"| `{name}` |" in readme for name in options.model_fields)


TO_TRAIN = Path(package).parent / "recipes" / "opensora-hps-16gb.yaml"
RECIPES = [TO_TRAIN, ROOT / "examples" / "opensora_generate.yaml"]


def judge(data):
    """The spec is sound, and so are the options of what this plugin offers; its rewards may not be installed."""
    spec = RunSpec.model_validate(data)
    assert spec.backbone.name == "opensora"
    assert spec.sampler.name in (None, "opensora_rflow")
    OpenSoraRFlowOptions(**spec.sampler.options)
    options = OpenSoraOptions(**spec.backbone.options)
    return spec, OpenSora.resolve_video(options, spec.video.model_dump(exclude_none=True))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_have_the_published_settings(path):
    spec, clip = judge(list(yaml.safe_load_all(path.read_text(encoding="utf-8")))[-1])
    assert (spec.sampler.steps, spec.sampler.guidance_scale) == (30, 7.0)
    assert (spec.backbone.adapter.rank, spec.backbone.adapter.alpha) == (16, 8)
    assert (clip.frames, clip.fps, spec.train.mixed_precision) == (51, 24.0, "bf16")
    assert (clip.height, clip.width) == ((276, 368) if path == TO_TRAIN else (416, 554))
