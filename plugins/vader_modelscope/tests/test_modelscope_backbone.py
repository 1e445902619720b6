"""The backbone gives diffusers' numbers, and its gradients are right."""

import copy
import importlib.util
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import DPMSolverMultistepScheduler

from vader import Prompt, RunSpec, SpecError, Video, check
from vader.diffusion.rollout import ClipNoise
from vader.protocols import Backbone
from vader_modelscope.backbone import ModelScope, ModelScopeOptions

CPU = torch.device("cpu")
VIDEO = Video(4, 32, 32, 8.0)
PROMPTS = ["A red  fox & a café\n", "blue"]
STEP = torch.full((2,), 400)


def test_is_a_backbone(modelscope):
    assert isinstance(modelscope, Backbone)
    assert modelscope.latent_shape(VIDEO) == (4, 4, 4, 4)
    for module in (modelscope.denoiser, modelscope.text_encoder, modelscope.vae):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_import_is_light():
    code = (
        "import sys, vader_modelscope.backbone, vader_modelscope.tiny, vader_modelscope.lora;"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'peft') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@torch.no_grad()
def test_encode_equals_the_pipeline(load, pipeline):
    backbone = load(negative_prompt="dull")
    conditioning = backbone.encode([*map(Prompt, PROMPTS)])
    expected, negative = pipeline.encode_prompt(PROMPTS, CPU, 1, True, ["dull", "dull"])
    assert torch.equal(conditioning.positive["encoder_hidden_states"], expected)
    torch.testing.assert_close(conditioning.negative["encoder_hidden_states"], negative, atol=1e-6, rtol=0)


@torch.no_grad()
def test_negative_prompt_is_encoded_once(load):
    backbone, calls = load(), []
    backbone.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    backbone.encode([Prompt("a")])
    backbone.encode([Prompt("b"), Prompt("c")])
    assert len(calls) == 3


@torch.no_grad()
def test_a_long_prompt_is_cut_and_a_tokenizer_without_length_is_bounded(load):
    backbone = load()
    backbone.pipeline.tokenizer.model_max_length = int(1e30)
    assert backbone.encode([Prompt("word " * 200)]).positive["encoder_hidden_states"].shape == (1, 77, 16)


@torch.no_grad()
def test_the_end_of_a_long_prompt_that_is_not_read(modelscope):
    text = "word " * 30 + "and more"
    end = modelscope.cut_off(text)
    kept = text.removesuffix(end)
    assert (kept + end, end.split()[-1]) == (text, "more")
    assert modelscope.cut_off(kept) == modelscope.cut_off("a fox") == ""
    whole, other, short = (
        modelscope.encode([Prompt(one)]).positive["encoder_hidden_states"] for one in (text, kept + "x" * 99, kept[:-3])
    )
    assert torch.equal(whole, other)
    assert not torch.equal(whole, short)


@torch.no_grad()
def test_text_encoder_on_the_cpu_gives_the_same(modelscope, load):
    offloaded = load(text_encoder_offload="cpu")
    assert torch.equal(
        offloaded.encode([*map(Prompt, PROMPTS)]).positive["encoder_hidden_states"],
        modelscope.encode([*map(Prompt, PROMPTS)]).positive["encoder_hidden_states"],
    )


@torch.no_grad()
def test_text_encoder_on_the_cpu_in_fp16(modelscope, load):
    """What a run in fp16 with text_encoder_offload: cpu does, on whatever device the rest is."""
    found = (
        load(text_encoder_offload="cpu", dtype=torch.float16)
        .encode([*map(Prompt, PROMPTS)])
        .positive["encoder_hidden_states"]
    )
    assert found.dtype == torch.float16
    torch.testing.assert_close(
        found.float(),
        modelscope.encode([*map(Prompt, PROMPTS)]).positive["encoder_hidden_states"],
        atol=0.02,
        rtol=0.02,
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", ["ddim", "dpm"])
def test_rollout_equals_the_pipeline(modelscope, pipeline, clips, kind):
    if kind == "dpm":
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    expected = pipeline(
        PROMPTS,
        height=32,
        width=32,
        num_frames=4,
        num_inference_steps=3,
        guidance_scale=5.0,
        latents=ClipNoise((1, 2), modelscope.latent_shape(VIDEO), CPU, torch.float32).draw(),
        output_type="pt",
    ).frames
    found = modelscope.decode(clips(modelscope, PROMPTS, 3, kind=kind))
    assert found.shape == (2, 4, 3, 32, 32)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected.std() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_decode_by_slices_equals_the_whole(modelscope, load, pipeline, latents, size):
    whole, calls = pipeline.decode_latents(latents).transpose(1, 2), []
    backbone = modelscope if size == 1 else load(decode_slice=size)
    hook = backbone.vae.decoder.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    try:
        found = backbone.decode_signed(latents, [3, 0, 1])
    finally:
        hook.remove()
    assert max(calls) == min(size, 6)
    assert sum(calls) == 6
    torch.testing.assert_close(found, whole[:, [3, 0, 1]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [[4], [-1], []])
def test_decode_of_a_frame_that_is_not_there(modelscope, latents, frames):
    with pytest.raises(IndexError, match="0 to 3"):
        modelscope.decode(latents, frames)


@torch.no_grad()
def test_decode_is_float32_inside_autocast(modelscope, latents):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = modelscope.decode(latents, [0])
    assert torch.equal(inside, modelscope.decode(latents, [0]))


def test_gradient_against_finite_differences(load, latents, monkeypatch):
    """The numbers are rounded to float32 in a few places; for this test those casts are to float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    backbone = load()
    embeds = backbone.encode([*map(Prompt, PROMPTS)]).positive["encoder_hidden_states"].detach().double()
    backbone.denoiser.double(), backbone.vae.double()
    weight = torch.randn(2, 2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def value(x):
        clean = x - 0.4 * backbone.predict(backbone.denoiser, x, STEP, {"encoder_hidden_states": embeds})
        return (backbone.decode_signed(clean, [1, 3]) * weight).sum()

    start = (latents.double() * 0.5).requires_grad_()
    direction = torch.randn(start.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(value(start), start)
    with torch.no_grad():
        measured = (value(start + 1e-5 * direction) - value(start - 1e-5 * direction)) / 2e-5
    assert gradient.abs().max() > 0
    torch.testing.assert_close((gradient * direction).sum(), measured, rtol=1e-5, atol=0)


def saved_bytes(function):
    """What autograd keeps for backward, in bytes, each tensor counted once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return result, sum(kept.values())


def test_gradient_checkpointing_gives_the_same_gradients_and_keeps_less(load, latents):
    backbone = load()
    embeds = backbone.encode([*map(Prompt, PROMPTS)]).positive["encoder_hidden_states"].detach()

    def measured():
        x = latents.clone().requires_grad_()

        def forward():
            clean = x - 0.1 * backbone.predict(backbone.denoiser, x, STEP, {"encoder_hidden_states": embeds})
            return backbone.decode(clean).square().sum()

        loss, kept = saved_bytes(forward)
        loss.backward()
        return x.grad, kept

    plain, before = measured()
    names = list(backbone.denoiser.state_dict())
    backbone.enable_gradient_checkpointing()
    backbone.enable_gradient_checkpointing()
    found, after = measured()
    assert torch.equal(found, plain)
    assert list(backbone.denoiser.state_dict()) == names
    assert after < before / 4


@torch.no_grad()
def test_checkpointing_leaves_inference_alone(load, modelscope, clips):
    backbone = load()
    backbone.enable_gradient_checkpointing()
    assert torch.equal(clips(backbone, PROMPTS), clips(modelscope, PROMPTS))


def test_one_frame(modelscope):
    with torch.no_grad():
        shape = modelscope.latent_shape(Video(1, 32, 40))
        latents = torch.randn(2, *shape)
        embeds = modelscope.encode([*map(Prompt, PROMPTS)]).positive["encoder_hidden_states"]
        assert modelscope.predict(modelscope.denoiser, latents, STEP, {"encoder_hidden_states": embeds}).shape == (
            2,
            4,
            1,
            4,
            5,
        )


@torch.no_grad()
@pytest.mark.parametrize("precision", ["float32", "run"])
def test_bf16(load, clips, precision):
    backbone = load(dtype=torch.bfloat16, vae_precision=precision)
    assert backbone.denoiser.dtype == backbone.text_encoder.dtype == torch.bfloat16
    assert backbone.vae.dtype == (torch.bfloat16 if precision == "run" else torch.float32)
    clean = clips(backbone, PROMPTS)
    frames = backbone.decode(clean)
    assert clean.dtype == frames.dtype == torch.float32
    assert 0 <= frames.min() <= frames.max() <= 1


class TestOptions:
    def spec(self, folder, **options):
        return {
            "backbone": {"name": "modelscope", "options": {"weights": str(folder), **options}},
            "prompts": {"name": "list", "options": {"prompts": ["a"]}},
            "rewards": [f"{Path(__file__).parents[3] / 'tests' / 'fakes.py'}:Brightness"],
        }

    def test_text_adapter_on_an_offloaded_text_encoder(self, folder):
        spec = self.spec(folder, text_adapter=True, text_encoder_offload="cpu")
        with pytest.raises(SpecError, match=r"backbone.options.text_encoder_offload: expected keep.*found 'cpu'"):
            check(spec)

    def test_xformers_is_missing(self, folder, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "xformers" else find(name))
        with pytest.raises(SpecError, match=r"backbone.options.xformers: .*pip install .*modelscope\[xformers\]"):
            check(self.spec(folder, xformers=True))

    def test_xformers_is_asked_of_the_unet(self, load, monkeypatch):
        from diffusers import UNet3DConditionModel

        asked, find = [], importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: "here" if name == "xformers" else find(name))
        monkeypatch.setattr(
            UNet3DConditionModel, "enable_xformers_memory_efficient_attention", lambda unet: asked.append(unet)
        )
        backbone = load(xformers=True)
        assert asked == [backbone.denoiser]

    def test_every_mistake_at_once(self, folder):
        with pytest.raises(SpecError) as caught:
            check(self.spec(folder, decode_slice=0, vae_precision="half", wheights="x"))
        assert {problem.path for problem in caught.value.problems} == {
            f"backbone.options.{name}" for name in ("decode_slice", "vae_precision", "wheights")
        }

    def test_are_described(self):
        assert all(field.description for field in ModelScopeOptions.model_fields.values())


def test_resolve_video():
    assert ModelScope.resolve_video(ModelScopeOptions(), {}) == Video(16, 256, 256, 8.0)
    assert ModelScope.resolve_video(ModelScopeOptions(), {"frames": 7, "height": 320, "fps": 4.0}) == Video(
        7, 320, 256, 4.0
    )


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ({"height": 250}, "height 250 is not a multiple of 8; the nearest are 248 and 256."),
        ({"width": 7}, "width 7 is not a multiple of 8; the least is 8."),
        ({"height": 9, "width": 10}, "the nearest are 8 and 16; width 10"),
    ],
)
def test_resolve_video_names_the_nearest(requested, message):
    with pytest.raises(ValueError) as caught:
        ModelScope.resolve_video(ModelScopeOptions(), requested)
    assert message in str(caught.value)


def test_readme_shows_a_valid_spec_and_every_option():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    spec = RunSpec.model_validate(yaml.safe_load(re.search(r"```yaml\n(.*?)```", readme, re.DOTALL).group(1)))
    options = ModelScopeOptions(**spec.backbone.options)
    ModelScope.resolve_video(options, spec.video.model_dump(exclude_none=True))
    assert all(f"| `{name}` |" in readme for name in ModelScopeOptions.model_fields)


def test_entry_point():
    (entry,) = entry_points(group="vader.backbones", name="modelscope")
    assert entry.load() is ModelScope


def test_convolutions_over_time_are_quick_and_the_same():
    from diffusers.models.resnet import TemporalConvLayer

    from vader_modelscope.unet import LeanTemporalConv, make_lean

    torch.manual_seed(0)
    plain = TemporalConvLayer(32, 32).double()
    torch.nn.init.normal_(plain.conv4[-1].weight)  # zero in a new one
    lean = copy.deepcopy(plain)
    make_lean(lean)
    assert sum(type(module) is LeanTemporalConv for module in lean.modules()) == 4
    found = []
    for layer in (plain, lean):
        leaf = torch.randn(
            6, 32, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        ).requires_grad_()
        out = layer(leaf, num_frames=3)
        out.square().sum().backward()
        found.append((out.detach(), leaf.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
