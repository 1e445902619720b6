"""HPSv3 against the numbers of its own package, and its published file, whole and damaged."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.golden_sets import GoldenSet, distance

from vader import Prompt, Runtime, SpecError, WeightsError
from vader_rewards import qwen, sampling
from vader_rewards.hpsv3 import FILE, OUTPUTS, Hpsv3
from vader_rewards.templates import ask

SET = GoldenSet.read("hpsv3_a")
FOLDER, BASE, CASES = SET.folder("ckpt"), SET.folder("base"), SET.facts["cases"]
SMALL = {"min_pixels": 784, "max_pixels": 3136}


def build(weights=FOLDER, base=BASE, dtype=torch.float32, **options):
    return Hpsv3(Hpsv3.Options(weights=str(weights), base=str(base), **options), Runtime(torch.device("cpu"), dtype))


def of_case(case, **options):
    return build(**{key: CASES[case][key] for key in ("min_pixels", "max_pixels")}, **options)


def prompts(case):
    return [Prompt(text) for text in CASES[case]["prompts"]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("score", OUTPUTS)
def test_scores_and_gradients(case, score):
    """Ours are means over frames; so is the gradient a frame's share of it."""
    frames = SET.frames(f"{case}.frames_u8")
    shape, each = frames.shape[:2], frames.shape[1]
    scores = of_case(case, dimensions={score: 1.0}).score(frames, prompts(case))
    record = SET.tensors[f"{case}.float.logits"].view(*shape, 2).mean(1)
    torch.testing.assert_close(torch.stack([scores[name] for name in OUTPUTS], 1), record, atol=1e-4, rtol=0)
    wrong = SET.tensors[f"WRONG_mrope.{case}.logits"].view(*shape, 2).mean(1)
    assert (wrong - record).abs().max() > 0.01, "these are the numbers of M-RoPE"
    assert torch.equal(scores["score"], scores[score])
    (each * scores["score"].sum()).backward()
    gradient = f"{case}.float.grad_frames_{score.removeprefix('log_')}"
    assert distance(frames.grad, SET.tensors[gradient]) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_two_passes(case):
    """`resize: twice` is PIL's way, in float."""
    frames = SET.frames(f"{case}.frames_u8")
    scores = of_case(case, resize="twice", chunk=4).score(frames, prompts(case))
    record = SET.tensors[f"{case}.float_two_pass.logits"].view(*frames.shape[:2], 2).mean(1)
    torch.testing.assert_close(torch.stack([scores[name] for name in OUTPUTS], 1), record, atol=1e-4, rtol=0)
    if f"{case}.float_two_pass.grad_frames_mu" in SET.tensors:
        (frames.shape[1] * scores["score"].sum()).backward()
        assert distance(frames.grad, SET.tensors[f"{case}.float_two_pass.grad_frames_mu"]) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_tokens(case):
    facts = CASES[case]
    size = sampling.size_within(*facts["clip"][-2:], facts["min_pixels"], facts["max_pixels"], qwen.FACTOR)
    assert list(size) == facts["resized"]
    texts = [ask("hpsv3", text) for text in facts["prompts"] for _ in range(facts["clip"][1])]
    words = of_case(case)._words
    ids, places = words.encode(texts, qwen.IMAGE, qwen.grid_of(1, size).tokens())
    assert torch.equal(ids, SET.tensors[f"{case}.input_ids"])
    if "special_positions" in facts:
        assert places[:, 0].tolist() == facts["special_positions"]
    if "full_text_of_first" in facts:
        assert texts[0] in facts["full_text_of_first"]


@pytest.mark.parametrize("case", [case for case in CASES if f"{case}.resized_u8" in SET.tensors])
def test_the_reference_route(case):
    """On the pixels that PIL made, the package's own scores."""
    resized = SET.tensors[f"{case}.resized_u8"].float() / 255
    pixels = qwen.patches(qwen.ready(resized[:, None], resized.shape[-2:]))
    if f"{case}.pixel_values" in SET.tensors:
        torch.testing.assert_close(pixels, SET.tensors[f"{case}.pixel_values"], atol=1e-5, rtol=0)
    ids, grid = SET.tensors[f"{case}.input_ids"], SET.tensors[f"{case}.image_grid_thw"]
    mark = SET.facts["special_token_ids"]["<|Reward|>"]
    places = (ids == mark).nonzero()[:, 1:]
    with torch.no_grad():
        logits = of_case(case)._judge.network(pixels, grid, ids, places, "image")[:, 0]
    torch.testing.assert_close(logits, SET.tensors[f"{case}.logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("row", SET.facts["smart_resize_table"]["rows"], ids=lambda row: f"{row['h']}x{row['w']}")
def test_sizes(row):
    table = SET.facts["smart_resize_table"]
    size = sampling.size_within(row["h"], row["w"], table["min_pixels"], table["max_pixels"], table["factor"])
    assert [*size, size[0] * size[1]] == row["resized_and_area"]


def test_the_published_sizes_are_the_default():
    table = SET.facts["smart_resize_table"]
    options = Hpsv3.Options()
    assert (options.min_pixels, options.max_pixels) == (table["min_pixels"], table["max_pixels"])


@pytest.mark.parametrize("options", [{"chunk": 3}, {"checkpointing": True}, {"offload": True}])
def test_how_it_is_held_changes_no_number(options):
    frames = torch.rand(2, 2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    found = []
    for more in ({}, options):
        leaf = frames.clone().requires_grad_()
        scores = build(**SMALL, **more).score(leaf, [Prompt("snow"), Prompt("a fox in the snow")])["score"]
        (scores * torch.tensor([1.0, -2.0])).sum().backward()
        found.append((scores.detach(), leaf.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_the_head_is_in_float32():
    network = build(dtype=torch.bfloat16)._judge.network
    assert network.rm_head[0].weight.dtype == torch.float32
    assert network.tower.dtype == torch.bfloat16


def test_both_scores_count_by_their_weights():
    frames = torch.rand(1, 2, 3, 32, 48)
    scores = build(dimensions={"mu": 2.0, "log_sigma": -0.5}, **SMALL).score(frames, [Prompt("snow")])
    torch.testing.assert_close(scores["score"], 2 * scores["mu"] - 0.5 * scores["log_sigma"])
    with pytest.raises(ValueError, match="sigma is none of them; expected weights of some of mu, log_sigma"):
        Hpsv3.Options(dimensions={"sigma": 1.0})


def test_a_prompt_with_the_reward_token():
    with pytest.raises(SpecError, match=r"prompt 'a <\|Reward\|>' holds '<\|Reward\|>', a token of the network"):
        build(**SMALL).score(torch.rand(1, 1, 3, 32, 48), [Prompt("a <|Reward|>")])


def changed(tmp_path, change):
    tensors = load_file(FOLDER / FILE)
    change(tensors)
    save_file(tensors, tmp_path / FILE)
    return tmp_path / FILE


def test_a_file_by_its_path_and_without_the_language_head(tmp_path):
    path = changed(tmp_path, lambda t: t.pop("lm_head.weight"))
    frames = torch.rand(1, 1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    one, other = (build(weights, **SMALL).score(frames, [Prompt("snow")])["score"] for weights in (path, FOLDER))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight"), "model.layers.0.mlp.up_proj.weight is missing"),
        (lambda t: t.pop("visual.merger.mlp.2.bias"), "visual.merger.mlp.2.bias is missing"),
        (lambda t: t.pop("model.embed_tokens.weight"), "model.embed_tokens.weight is missing"),
        (lambda t: t.pop("rm_head.3.bias"), "rm_head.3.bias is missing"),
        (lambda t: t.update({"rm_head.6.bias": torch.zeros(1)}), "rm_head.6.bias is unknown"),
        (lambda t: t.update({"visual.more": torch.zeros(1)}), "visual.more is unknown"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(5)}), r"model.norm.weight has shape \(5,\), expected"),
        (
            lambda t: t.update({"rm_head.5.weight": torch.zeros(1, 16)}),
            r"5.weight has shape \(1, 16\), expected",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, said):
    with pytest.raises(WeightsError, match=said):
        build(changed(tmp_path, change))


def test_another_base(tmp_path):
    """Another vocabulary, or another kind of network."""
    with pytest.raises(WeightsError, match=r"HPSv3.safetensors.*|the tokenizer has"):
        build(base=GoldenSet.read("videoalign_a").folder("base"))
    folder = tmp_path / "base"
    shutil.copytree(BASE, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen3"}))
    with pytest.raises(WeightsError, match=r"`base: .*is a qwen3; expected a qwen2_vl"):
        build(base=folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config.json is missing"):
        build(base=folder)


def test_no_file(tmp_path):
    with pytest.raises(WeightsError, match=r"`weights: .*is a folder. Give the path of the file, or owner/name:file"):
        build(tmp_path)
