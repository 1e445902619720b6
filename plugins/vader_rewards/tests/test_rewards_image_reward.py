"""ImageReward against the numbers of its own package, and its published layout, whole and damaged."""

import shutil

import pytest
import torch
from tests.golden_sets import GoldenSet, distance

from vader import Prompt, WeightsError
from vader_rewards import pixels
from vader_rewards.blip import tokens
from vader_rewards.image_reward import ImageReward

SET = GoldenSet.read("imagereward_a")
FOLDER, CASES = SET.folder("ckpt"), list(SET.facts["cases"])


@pytest.fixture(scope="module")
def make():
    from vader import Runtime

    def build(folder=FOLDER, dtype=torch.float32, **options):
        heads = SET.facts["tiny_sizes"]["vit_heads"]
        return ImageReward(
            ImageReward.Options(weights=str(folder), vision_heads=heads, **options), Runtime(torch.device("cpu"), dtype)
        )

    return build


@pytest.fixture(scope="module")
def reward(make):
    return make()


def prompts(case):
    return [Prompt(text) for text in SET.facts["cases"][case]["prompts"]]


@pytest.mark.parametrize("case", CASES)
def test_tokens(reward, case):
    ids, mask = tokens(reward._tokenizer, SET.facts["cases"][case]["prompts"])
    each = SET.facts["cases"][case]["clip"][1]
    assert torch.equal(ids.repeat_interleave(each, 0), SET.tensors[f"{case}.input_ids"])
    assert torch.equal(mask.repeat_interleave(each, 0), SET.tensors[f"{case}.attention_mask"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [1, 3])
def test_scores_and_gradients(make, case, chunk):
    """The record has every frame's score, ours is their mean; so is the gradient a frame's share of it."""
    reward, frames = make(chunk=chunk), SET.frames(f"{case}.frames_u8")
    score = reward.score(frames, prompts(case))
    clips, each = frames.shape[:2]
    torch.testing.assert_close(score, SET.tensors[f"{case}.float.reward"].view(clips, each).mean(1), atol=1e-4, rtol=0)
    (each * score.sum()).backward()
    assert distance(frames.grad, SET.tensors[f"{case}.float.grad_frames"]) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_two_passes(make, case):
    """`resize: twice` is PIL's way, in float."""
    frames = SET.frames(f"{case}.frames_u8")
    score = make(resize="twice").score(frames, prompts(case))
    expected = SET.tensors[f"{case}.float_two_pass.reward"].view(frames.shape[:2]).mean(1)
    torch.testing.assert_close(score, expected, atol=1e-4, rtol=0)
    if f"{case}.float_two_pass.grad_frames" in SET.tensors:
        score.sum().backward()
        assert distance(frames.grad * frames.shape[1], SET.tensors[f"{case}.float_two_pass.grad_frames"]) < 1e-4


def test_the_reference_route(reward):
    """On the pixels that PIL made, the package's own score."""
    case = next(case for case in CASES if f"{case}.pixel_values" in SET.tensors)
    ids, mask = SET.tensors[f"{case}.input_ids"], SET.tensors[f"{case}.attention_mask"]
    found = reward._judge.network(SET.tensors[f"{case}.pixel_values"], ids, mask)
    torch.testing.assert_close(found, SET.tensors[f"{case}.reward"][:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("resize", ["once", "twice"])
def test_pixels_near_those_of_pil(make, resize):
    case = next(case for case in CASES if f"{case}.pixel_values" in SET.tensors)
    prepared = make(resize=resize)._prepare(pixels.images(SET.frames(f"{case}.frames_u8")), 224)
    gap = (pixels.normalise(prepared, pixels.CLIP_MEAN, pixels.CLIP_STD) - SET.tensors[f"{case}.pixel_values"]).abs()
    key = "rounding" if resize == "once" else "float_two_pass"
    assert gap.max().item() == pytest.approx(SET.facts["cases"][case][key]["max_abs_pixel_diff"], rel=1e-2)


def test_a_long_prompt_is_cut(reward):
    frames = SET.frames(f"{CASES[0]}.frames_u8")
    long = " ".join(["a red fox runs"] * 40)
    torch.testing.assert_close(
        reward.score(frames, [Prompt(long)]), reward.score(frames, [Prompt(f"{long} and a boat")]), rtol=0, atol=0
    )


def test_it_is_held_once(make, reward):
    assert make()._judge is reward._judge
    assert make(dtype=torch.bfloat16)._judge is not reward._judge


def test_the_head_is_in_float32(make):
    network = make(dtype=torch.bfloat16)._judge.network
    assert network.head.layers[0].weight.dtype == torch.float32
    assert next(network.vision.parameters()).dtype == torch.bfloat16


def damaged(tmp_path, change):
    folder = tmp_path / "copy"
    shutil.copytree(FOLDER, folder)
    tensors = torch.load(folder / "ImageReward.pt", weights_only=True)
    change(tensors)
    torch.save(tensors, folder / "ImageReward.pt")
    return folder


BLOCK = "blip.visual_encoder.blocks.1.attn.qkv.bias"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(BLOCK), f"{BLOCK} is missing"),
        (lambda t: t.update({"blip.extra.weight": torch.zeros(1)}), "blip.extra.weight is unknown"),
        (lambda t: t.update({BLOCK: torch.zeros(5)}), rf"{BLOCK} has shape \(5,\), expected \(\d+,\)"),
        (lambda t: t.pop("mlp.layers.4.weight"), "mlp.layers.4.weight is missing"),
        (lambda t: t.pop("blip.visual_encoder.patch_embed.proj.weight"), "patch_embed.proj.weight' is missing"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, make, change, said):
    with pytest.raises(WeightsError, match=said):
        make(damaged(tmp_path, change))


@pytest.mark.parametrize("name", ["ImageReward.pt", "med_config.json"])
def test_a_missing_file(tmp_path, make, name):
    folder = damaged(tmp_path, lambda _: None)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=rf"{name}.*hf download THUDM/ImageReward"):
        make(folder)


def test_no_folder(make):
    with pytest.raises(WeightsError, match="is no folder here, nor a hub id"):
        make("nowhere/at/all")
