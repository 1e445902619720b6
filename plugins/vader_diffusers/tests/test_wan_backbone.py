"""The backbone gives diffusers' numbers, and its gradients are right."""

import functools
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import yaml

from vader import Prompt, RunSpec, Runtime, SamplerContext, Video
from vader.backbones.family import Grid
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.diffusion.samplers.flow_euler import FlowEuler, FlowEulerOptions
from vader.protocols import Backbone
from vader_diffusers.wan import Wan, WanOptions

VIDEO, DTYPE = Video(9, 32, 32, 16.0), torch.float32
PROMPTS = ["A red  fox &amp; a cafÃ©\n", "blue"]


def sampler(wan, steps):
    return FlowEuler(FlowEulerOptions(), SamplerContext(wan.schedule, steps, 0.0, VIDEO, torch.device("cpu")))


def predict(wan):
    return functools.partial(wan.predict, wan.denoiser)


def test_is_a_backbone(wan):
    assert isinstance(wan, Backbone)
    assert wan.latent_shape(VIDEO) == (16, 3, 4, 4)
    for module in (wan.denoiser, wan.text_encoder, wan.vae):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_import_is_light():
    heavy = ("torch", "diffusers", "transformers")
    code = f"import sys, vader_diffusers.wan; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_schedule(wan):
    assert (wan.schedule.prediction, wan.schedule.shift, wan.schedule.train_timesteps) == ("flow", 3.0, 1000)
    assert wan.schedule.config["_class_name"] == "UniPCMultistepScheduler"


@torch.no_grad()
@pytest.mark.parametrize("length", [512, 7])
def test_the_end_of_a_long_prompt_that_is_not_read(load, length):
    """One token is a byte in the tiny model, and one is the end's."""
    wan = load(max_sequence_length=length)
    kept, end = "x" * (length - 1), "and more"
    assert wan.cut_off(kept + end) == end
    assert wan.cut_off(kept) == ""
    whole, other = (wan.encode([Prompt(kept + one)]).positive["encoder_hidden_states"] for one in (end, "or less"))
    assert torch.equal(whole, other)


@torch.no_grad()
@pytest.mark.parametrize("length", [512, 7])
def test_encode_equals_the_pipeline(load, pipeline, length):
    wan = load(negative_prompt="dull", max_sequence_length=length)
    conditioning = wan.encode([*map(Prompt, PROMPTS)])
    expected, negative = pipeline.encode_prompt(PROMPTS, ["dull", "dull"], max_sequence_length=length)
    assert torch.equal(conditioning.positive["encoder_hidden_states"], expected)
    torch.testing.assert_close(conditioning.negative["encoder_hidden_states"], negative, atol=1e-6, rtol=0)
    _, negative = pipeline.encode_prompt([PROMPTS[0]], ["dull"], max_sequence_length=length)
    assert torch.equal(wan.encode([*map(Prompt, PROMPTS[:1])]).negative["encoder_hidden_states"], negative)


@torch.no_grad()
def test_negative_prompt_is_encoded_once(load):
    wan, calls = load(max_sequence_length=8), []
    wan.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    wan.encode([Prompt("a")])
    wan.encode([Prompt("b"), Prompt("c")])
    assert len(calls) == 3


@torch.no_grad()
def test_text_encoder_on_the_cpu_gives_the_same(wan, load):
    offloaded = load(text_encoder_offload="cpu")
    assert torch.equal(
        offloaded.encode([*map(Prompt, PROMPTS)]).positive["encoder_hidden_states"],
        wan.encode([*map(Prompt, PROMPTS)]).positive["encoder_hidden_states"],
    )


@torch.no_grad()
def test_rollout_equals_the_pipeline(wan, pipeline):
    seeds, shape = (1, 2), wan.latent_shape(VIDEO)
    device, dtype = torch.device("cpu"), torch.float32
    start = ClipNoise(seeds, shape, device, dtype).draw()
    clean = rollout(
        predict(wan),
        sampler(wan, 4),
        wan.encode([*map(Prompt, PROMPTS)]),
        ClipNoise(seeds, shape, device, dtype),
        Window(4, 4),
        guidance_scale=5.0,
    )
    expected = pipeline(
        PROMPTS,
        height=32,
        width=32,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=start,
        output_type="pt",
    ).frames
    assert wan.decode(clean).shape == (2, 9, 3, 32, 32)
    torch.testing.assert_close(wan.decode(clean), expected, atol=1e-5, rtol=0)
    assert expected.std() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    ("frames", "prefix"),
    [([0], 1), ([1], 2), ([4], 2), ([5], 3), ([8], 3), ([0, 4], 2), ([3, 0, 1], 2), ([0, 4, 8], 3)],
)
def test_decode_of_a_prefix_equals_the_whole(wan, latents, frames, prefix):
    whole, calls = wan.decode(latents), []
    hook = wan.vae.decoder.mid_block.attentions[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        part = wan.decode(latents, frames)
    finally:
        hook.remove()
    assert len(calls) == prefix
    torch.testing.assert_close(part, whole[:, frames], atol=1e-6, rtol=0)


@pytest.mark.parametrize("frames", [[9], [-1], []])
def test_decode_of_a_frame_that_is_not_there(wan, latents, frames):
    with pytest.raises(IndexError, match="0 to 8"):
        wan.decode(latents, frames)


@torch.no_grad()
def test_decode_is_float32_inside_autocast(wan, latents):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = wan.decode(latents, [0])
    assert torch.equal(inside, wan.decode(latents, [0]))


@torch.no_grad()
def test_a_vae_that_does_not_compress_time(copy, load):
    from diffusers import AutoencoderKLWan

    class PerFrame(Wan):
        family = replace(Wan.family, grid=Grid(time=1, time_offset=1, space=16))

    AutoencoderKLWan(base_dim=8, num_res_blocks=1, temperal_downsample=[False] * 3).eval().save_pretrained(copy / "vae")
    wan = load(copy, kind=PerFrame)
    assert wan.latent_shape(PerFrame.resolve_video(WanOptions(), {"frames": 2})) == (16, 2, 60, 104)
    latents = torch.randn(1, 16, 3, 4, 4)
    whole = wan.decode(latents)
    assert whole.shape[1] == 3
    torch.testing.assert_close(wan.decode(latents, [1]), whole[:, [1]], atol=1e-6, rtol=0)


def test_gradient_against_finite_differences(load, latents, monkeypatch):
    """Wan rounds to float32 in its norms and its upsampling; for this test those casts are to float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    wan = load()
    wan.denoiser.double(), wan.vae.double()
    embeds = wan.encode([Prompt("a fox")]).positive["encoder_hidden_states"].detach().double()
    weight = torch.randn(1, 2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = torch.full((1,), 400.0, dtype=torch.float64)

    def value(x):
        clean = x - 0.4 * wan.predict(wan.denoiser, x, step, {"encoder_hidden_states": embeds})
        return (wan.decode(clean, [1, 4]) * weight).sum()

    start = (latents.double() * 0.5).requires_grad_()
    direction = torch.randn(start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(value(start), start)
    with torch.no_grad():
        measured = (value(start + 1e-5 * direction) - value(start - 1e-5 * direction)) / 2e-5
    assert gradient.abs().max() > 0
    torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-5, atol=0)


def test_gradient_checkpointing_gives_the_same_gradients(load, latents):
    wan = load()
    embeds = wan.encode([Prompt("a fox")]).positive["encoder_hidden_states"].detach()

    def gradient():
        x = latents.clone().requires_grad_()
        wan.predict(
            wan.denoiser, x, torch.full((1,), 400.0), {"encoder_hidden_states": embeds}
        ).square().sum().backward()
        return x.grad

    plain = gradient()
    assert not wan.denoiser.is_gradient_checkpointing
    wan.enable_gradient_checkpointing()
    assert wan.denoiser.is_gradient_checkpointing
    torch.testing.assert_close(gradient(), plain, atol=0, rtol=0)


def test_window_carries_gradient_to_an_adapter(load):
    from peft import LoraConfig, inject_adapter_in_model

    wan = load()
    config = LoraConfig(r=2, target_modules=list(Wan.lora_target_modules))
    inject_adapter_in_model(config, wan.denoiser)
    with torch.no_grad():
        conditioning = wan.encode([Prompt("a fox")])
    noise = ClipNoise((3,), wan.latent_shape(VIDEO), torch.device("cpu"), torch.float32)
    clean = rollout(predict(wan), sampler(wan, 3), conditioning, noise, Window(1, 3), guidance_scale=5.0)
    wan.decode(clean, [0]).mean().backward()
    trained = [p for p in wan.denoiser.parameters() if p.requires_grad]
    assert len(trained) == 2 * 4 * 2 * 2  # blocks, projections, self- and cross-attention, A and B
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@torch.no_grad()
def test_bf16(load):
    wan = load(dtype=torch.bfloat16)
    assert wan.denoiser.dtype == wan.text_encoder.encoder.embed_tokens.weight.dtype == torch.bfloat16
    assert wan.vae.dtype == wan.denoiser.blocks[0].scale_shift_table.dtype == torch.float32
    noise = ClipNoise((3,), wan.latent_shape(VIDEO), torch.device("cpu"), torch.float32)
    clean = rollout(
        predict(wan), sampler(wan, 2), wan.encode([Prompt("a fox")]), noise, Window(2, 2), guidance_scale=5.0
    )
    frames = wan.decode(clean)
    assert clean.dtype == frames.dtype == torch.float32
    assert frames.isfinite().all()
    assert 0 <= frames.min() <= frames.max() <= 1


def test_resolve_video():
    assert Wan.resolve_video(WanOptions(), {}) == Video(81, 480, 832, 16.0)
    assert Wan.resolve_video(WanOptions(), {"frames": 1, "height": 16, "fps": 8.0}) == Video(1, 16, 832, 8.0)


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ({"frames": 80}, "frames 80 is not 4k + 1; the nearest are 77 and 81."),
        ({"height": 481}, "height 481 is not a multiple of 16; the nearest are 480 and 496."),
        ({"width": 7}, "width 7 is not a multiple of 16; the least is 16."),
        ({"frames": 2, "width": 8}, "the nearest are 1 and 5; width 8"),
    ],
)
def test_resolve_video_names_the_nearest(requested, message):
    with pytest.raises(ValueError) as caught:
        Wan.resolve_video(WanOptions(), requested)
    assert message in str(caught.value)


def test_options_are_described():
    assert all(field.description for field in WanOptions.model_fields.values())


def test_readme_shows_a_valid_spec_and_every_option():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    spec = RunSpec.model_validate(yaml.safe_load(re.search(r"```yaml\n(.*?)```", readme, re.DOTALL).group(1)))
    options = WanOptions(**spec.backbone.options)
    Wan.resolve_video(options, spec.video.model_dump(exclude_none=True))
    assert all(f"| `{name}` |" in readme for name in WanOptions.model_fields)


def test_entry_point():
    (entry,) = entry_points(group="vader.backbones", name="wan")
    assert entry.load() is Wan


def test_a_second_run_of_the_same_prompts_never_loads_the_text_encoder(folder, tmp_path, monkeypatch):
    from vader.backbones.parts import Parts
    from vader.diffusion.conditioning import ConditioningCache

    def run(**options):
        made = Wan(
            WanOptions(weights=str(folder), max_sequence_length=8, **options), Runtime(torch.device("cpu"), DTYPE)
        )
        return ConditioningCache(made, torch.device("cpu"), home=tmp_path)([*map(Prompt, PROMPTS)])

    first, loaded, load = run(), [], Parts.module
    monkeypatch.setattr(Parts, "module", lambda self, part, dtype: loaded.append(part) or load(self, part, dtype))
    second = run()
    assert "text_encoder" not in loaded
    for name, tensor in first.positive.items():
        assert torch.equal(tensor, second.positive[name])
        assert torch.equal(first.negative[name], second.negative[name])
    run(negative_prompt="dull")
    assert "text_encoder" in loaded, "another negative prompt is another conditioning"
