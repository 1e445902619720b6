"""The backbone: what it promises before loading, what it computes, and that its gradients are right."""

import functools
import math
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import yaml

from vader import Prompt, RunSpec, Runtime, SamplerContext, Video
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.protocols import Backbone, Sampler
from vader.resolve.components import ResolvedComponent
from vader_videocrafter import layout, network, tiny
from vader_videocrafter.backbone import VideoCrafter2, VideoCrafter2Options
from vader_videocrafter.sampler import VideoCrafterDDIM, VideoCrafterDDIMOptions

CPU = torch.device("cpu")
VIDEO = Video(4, 16, 16, 24.0)
PROMPTS = ["A red  fox &amp; a café\n", "blue"]


def noise(backbone, seeds=(3,)):
    return ClipNoise(seeds, backbone.latent_shape(VIDEO), CPU, torch.float32)


def ddim(schedule, steps=4):
    return VideoCrafterDDIM(VideoCrafterDDIMOptions(), SamplerContext(schedule, steps, 0.0, VIDEO, CPU))


@torch.no_grad()
def make(backbone, steps=2, prompts=("a fox",)):
    """Latents of a clip."""
    draw = noise(backbone, range(len(prompts)))
    predict = functools.partial(backbone.predict, backbone.denoiser)
    return rollout(
        predict,
        ddim(backbone.schedule, steps),
        backbone.encode([*map(Prompt, prompts)]),
        draw,
        Window(steps, steps),
        guidance_scale=7.0,
    )


# -- before loading


def test_is_a_backbone(backbone):
    assert isinstance(backbone, Backbone)
    assert isinstance(ddim(backbone.schedule), Sampler)
    assert backbone.latent_shape(VIDEO) == (4, 4, 8, 8)
    for module in (backbone.denoiser, backbone.text_encoder, backbone.vae):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_import_is_light():
    modules = "vader_videocrafter.backbone, vader_videocrafter.sampler"
    heavy = "('torch', 'diffusers', 'open_clip', 'peft')"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_resolve_video():
    assert VideoCrafter2.resolve_video(VideoCrafter2Options(), {}) == Video(16, 320, 512, 24.0)
    asked = {"frames": 24, "height": 576, "width": 1024, "fps": 8.0}
    assert VideoCrafter2.resolve_video(VideoCrafter2Options(max_frames=24), asked) == Video(24, 576, 1024, 8.0)


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ({"frames": 17}, "frames 17 is more than 16, the length of training's clips; take 16 or fewer, or raise"),
        ({"height": 321}, "height 321 is not a multiple of 16; the nearest are 320 and 336."),
        ({"width": 7}, "width 7 is not a multiple of 16; the least is 16."),
        ({"frames": 20, "width": 24}, "max_frames; width 24 is not a multiple of 16; the nearest are 16 and 32."),
    ],
)
def test_resolve_video_says_what_is_possible(requested, message):
    with pytest.raises(ValueError) as caught:
        VideoCrafter2.resolve_video(VideoCrafter2Options(), requested)
    assert message in str(caught.value)


def test_options_are_described():
    for options in (VideoCrafter2Options, VideoCrafterDDIMOptions):
        assert all(field.description for field in options.model_fields.values())


def test_readme_shows_a_valid_spec_and_every_option():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    spec = RunSpec.model_validate(yaml.safe_load(re.search(r"```yaml\n(.*?)```", readme, re.DOTALL).group(1)))
    options = VideoCrafter2Options(**spec.backbone.options)
    VideoCrafter2.resolve_video(options, spec.video.model_dump(exclude_none=True))
    assert all(f"| `{name}` |" in readme for name in VideoCrafter2Options.model_fields)


def test_entry_points():
    (entry,) = entry_points(group="vader.backbones", name="videocrafter2")
    assert entry.load() is VideoCrafter2
    (entry,) = entry_points(group="vader.samplers", name="videocrafter_ddim")
    assert entry.load() is VideoCrafterDDIM


# -- text


@torch.no_grad()
def test_encode_is_the_penultimate_layer(backbone, tiny_file):
    """All layers built, the last left out by hand, as the reference does it."""
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import TextTransformer

    sizes = tiny.layout("512-v2").text
    whole = TextTransformer(77, sizes.vocabulary, sizes.width, sizes.heads, sizes.layers, output_dim=sizes.width).eval()
    state = torch.load(tiny_file(), weights_only=True)["state_dict"]
    own = {key.removeprefix(layout.TEXT): value for key, value in state.items() if key.startswith(layout.TEXT)}
    own.pop("logit_scale")
    whole.load_state_dict(own)
    tokens = SimpleTokenizer()([*PROMPTS, ""])
    x = whole.token_embedding(tokens) + whole.positional_embedding
    for block in list(whole.transformer.resblocks)[:-1]:
        x = block(x, attn_mask=whole.attn_mask)
    expected = whole.ln_final(x)
    conditioning = backbone.encode([*map(Prompt, PROMPTS)])
    torch.testing.assert_close(conditioning.positive["embeds"], expected[:2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(conditioning.negative["embeds"], expected[[2, 2]], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_long_prompt_is_cut(backbone):
    assert backbone.encode([Prompt("word " * 200)]).positive["embeds"].shape == (1, 77, 16)


@torch.no_grad()
def test_the_end_of_a_long_prompt_that_is_not_read(backbone):
    """76 words are one more than there is room for between begin and end."""
    text = " ".join(["fox"] * 75 + ["jumps", "high"])
    assert backbone.cut_off(text) == "jumps high"
    assert backbone.cut_off(text.removesuffix(" jumps high")) == ""
    whole, other = (backbone.encode([Prompt(one)]).positive["embeds"] for one in (text, text + " and far"))
    assert torch.equal(whole, other)


@torch.no_grad()
def test_negative_prompt(load, backbone):
    negative, calls = load(negative_prompt="dull"), []
    negative.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    conditioning = negative.encode([Prompt("a"), Prompt("b")])
    torch.testing.assert_close(
        conditioning.negative["embeds"][:1], backbone.encode([Prompt("dull")]).positive["embeds"]
    )
    negative.encode([Prompt("c")])
    assert len(calls) == 3, "the negative prompt is encoded once"


@torch.no_grad()
def test_text_encoder_on_the_cpu_gives_the_same(backbone, load):
    offloaded = load(text_encoder_offload="cpu")
    assert torch.equal(
        offloaded.encode([*map(Prompt, PROMPTS)]).positive["embeds"],
        backbone.encode([*map(Prompt, PROMPTS)]).positive["embeds"],
    )


# -- frame rate


@pytest.mark.parametrize(
    ("video", "option", "told"),
    [(None, None, 24.0), (Video(4, 16, 16, 8.0), None, 8.0), (Video(4, 16, 16, 8.0), 28.0, 28.0), (None, 2.5, 2.5)],
)
def test_what_the_denoiser_is_told(tiny_file, video, option, told):
    options = VideoCrafter2Options(weights=str(tiny_file()), fps=option)
    made = ResolvedComponent("backbone", "videocrafter2", VideoCrafter2, options).build(
        runtime=Runtime(CPU, torch.float32), video=video
    )
    with torch.no_grad():
        assert made.encode([Prompt("a"), Prompt("b")]).positive["fps"].tolist() == [told, told]


@torch.no_grad()
def test_the_frame_rate_changes_the_clip(load, backbone):
    assert not torch.equal(make(load(fps=8.0)), make(backbone))


def test_a_checkpoint_without_frame_rate_is_told_none(load, tiny_file):
    with torch.no_grad():
        assert load(tiny_file("512-v1")).encode([Prompt("a")]).positive.keys() == {"embeds"}


# -- the older networks


@pytest.mark.parametrize("kind", ["512-v1", "1024"])
def test_older_networks_sample(load, tiny_file, kind):
    backbone = load(tiny_file(kind))
    frames = backbone.decode(make(backbone))
    assert frames.shape == (1, 4, 3, 16, 16)
    assert frames.std() > 1e-3
    scale = backbone.schedule.signal_scale
    assert (scale is None) if kind == "512-v1" else (scale.shape == (1000,) and float(scale[-1]) == pytest.approx(0.3))


def test_relative_attention_is_shaw_et_al():
    """Against the two sums of the paper, frame by frame; distances beyond the table share its last row."""
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    frames, longest, heads, width = 5, 2, 3, 4
    attention = Attention(heads * width, heads=heads, dim_head=width).double()
    processor = network.RelativeAttention(longest, width).double()
    tables = [processor.relative_position_k.embeddings_table, processor.relative_position_v.embeddings_table]
    for table in tables:
        torch.nn.init.normal_(table)
    attention.set_processor(processor)
    x = torch.randn(2, frames, heads * width, dtype=torch.float64)
    q, k, v = (layer(x).view(2, frames, heads, width) for layer in (attention.to_q, attention.to_k, attention.to_v))
    expected = torch.zeros(2, frames, heads, width, dtype=torch.float64)
    for b in range(2):
        for h in range(heads):
            for i in range(frames):
                way = [max(-longest, min(longest, j - i)) + longest for j in range(frames)]
                logits = [q[b, i, h] @ (k[b, j, h] + tables[0][way[j]]) / math.sqrt(width) for j in range(frames)]
                weights = torch.stack(logits).softmax(0)
                expected[b, i, h] = sum(weights[j] * (v[b, j, h] + tables[1][way[j]]) for j in range(frames))
    torch.testing.assert_close(attention(x), attention.to_out[0](expected.flatten(-2)))


# -- frames


@torch.no_grad()
@pytest.mark.parametrize("frames", [[0], [3], [3, 0, 1]])
def test_decode_of_some_frames_equals_the_whole(backbone, frames):
    latents = noise(backbone, (1, 2)).draw()
    torch.testing.assert_close(backbone.decode(latents, frames), backbone.decode(latents)[:, frames])


@pytest.mark.parametrize("frames", [[4], [-1], []])
def test_decode_of_a_frame_that_is_not_there(backbone, frames):
    with pytest.raises(IndexError, match="0 to 3"):
        backbone.decode(noise(backbone).draw(), frames)


@torch.no_grad()
def test_decode_is_float32_inside_autocast(backbone):
    latents = noise(backbone).draw()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = backbone.decode(latents, [0])
    assert torch.equal(inside, backbone.decode(latents, [0]))


def test_decoding_holds_one_frame_in_backward(load, backbone, monkeypatch):
    """With gradient, frames beyond the first batch are recomputed: as many decodings again as there are batches."""
    calls = []
    monkeypatch.setattr(
        network, "_decoded", lambda vae, images, real=network._decoded: calls.append(1) or real(vae, images)
    )
    for at_once, made in ((1, backbone), (4, load(decode_at_once=4))):
        calls.clear()
        latents = noise(backbone).draw().requires_grad_()
        made.decode(latents).sum().backward()
        assert len(calls) == (8 if at_once == 1 else 1)


@torch.no_grad()
def test_a_size_between_the_levels(backbone):
    """Latents that do not halve evenly: the way up takes the sizes of the way down."""
    conditioning = backbone.encode([Prompt("a")])
    x = torch.randn(1, 4, 2, 7, 9)
    out = backbone.predict(backbone.denoiser, x, torch.tensor([5]), conditioning.positive)
    assert out.shape == x.shape
