"""VideoReward against the numbers of VideoAlign's own code, and its published layouts, whole and damaged."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.golden_sets import GoldenSet, distance

from vader import Prompt, Runtime, SpecError, Video, WeightsError
from vader_rewards import qwen, sampling
from vader_rewards.templates import ask
from vader_rewards.video_reward import DIMENSIONS, VideoReward

SET = GoldenSet.read("videoalign_a")
FOLDER, BASE, CASES = SET.folder("ckpt"), SET.folder("base"), SET.facts["cases"]
CLIPS = [(case, index) for case, facts in CASES.items() for index in range(len(facts["videos"]))]
STD = [json.loads((FOLDER / "model_config.json").read_text())["inference_config"][f"{d}_std"] for d in DIMENSIONS]
MEAN = [json.loads((FOLDER / "model_config.json").read_text())["inference_config"][f"{d}_mean"] for d in DIMENSIONS]


def build(folder=FOLDER, base=BASE, dtype=torch.float32, video=None, **options):
    chosen = VideoReward.Options(weights=str(folder), base=str(base), **options)
    return VideoReward(chosen, Runtime(torch.device("cpu"), dtype), video)


def of_case(case, index, **options):
    """The reward for one of a case's clips, whose sum of raw scores has the recorded gradient."""
    facts = CASES[case]
    video = Video(facts["videos"][index]["frames"][0], 64, 64, facts["videos"][index]["fps"])
    sums = dict(zip(DIMENSIONS, STD, strict=True))
    asked = {"fps": facts["fps"], "num_frames": facts["num_frames"]}
    pixels = {"min_pixels": facts["min_pixels"], "max_pixels": facts["max_pixels"]}
    return build(video=video, dimensions=sums, **asked, **pixels, **options)


def raw(scores):
    """``(b 3)`` as the network gives them."""
    return torch.stack([scores[d] * s + m for d, s, m in zip(DIMENSIONS, STD, MEAN, strict=True)], 1)


@pytest.mark.parametrize(("case", "index"), CLIPS)
def test_scores_gradients_and_frames(case, index):
    facts, frames = CASES[case]["videos"][index], SET.frames(f"{case}.video{index}.frames_u8")
    reward = of_case(case, index)
    assert reward.places(len(frames)) == facts["sampled"]
    if "resized" in facts:
        assert list(reward.size(*frames.shape[-2:])) == facts["resized"]
    scores = reward.score(frames[None], [Prompt(CASES[case]["prompts"][index])])
    torch.testing.assert_close(raw(scores), SET.tensors[f"{case}.float.logits"][[index]], atol=1e-4, rtol=0)
    wrong = SET.tensors[f"WRONG_mrope.{case}.logits"][[index]]
    assert (raw(scores) - wrong).abs().max() > 0.05, "these are the numbers of M-RoPE"
    scores["score"].sum().backward()
    record = SET.tensors[f"{case}.video{index}.float.grad_frames"]
    assert distance(frames.grad[facts["sampled"]], record) < 1e-4
    others = [i for i in range(len(frames)) if i not in facts["sampled"]]
    assert not frames.grad[others].any()
    overall = CASES[case]["reward_normalised"][index]["Overall"]
    assert sum(scores[d].item() for d in DIMENSIONS) == pytest.approx(overall, abs=0.05)  # theirs is of 8-bit pixels


@pytest.mark.parametrize("case", [case for case in CASES if f"{case}.input_ids" in SET.tensors])
def test_tokens(case):
    ids, mask = SET.tensors[f"{case}.input_ids"], SET.tensors[f"{case}.attention_mask"].bool()
    for index, facts in enumerate(CASES[case]["videos"]):
        words = of_case(case, index)._words
        tokens = facts["grid_thw"][0] * facts["grid_thw"][1] * facts["grid_thw"][2] // 4
        found, places = words.encode([ask("videoreward", CASES[case]["prompts"][index])], qwen.VIDEO, tokens)
        assert torch.equal(found[0], ids[index][mask[index]])
        assert places.tolist() == [CASES[case]["special_positions"][index]]


def test_the_text_of_the_first_case():
    text = ask("videoreward", next(iter(CASES.values()))["prompts"][0])
    assert text in SET.facts["full_text_of_first_case"]
    assert text.startswith("\nYou are tasked")


@pytest.mark.parametrize("case", [case for case in CASES if f"{case}.pixel_values_videos" in SET.tensors])
def test_the_reference_route(case):
    """On the pixels of the reference's 8-bit resize: its patches, its scores, its gradient."""
    facts = CASES[case]
    resized = [SET.tensors[f"{case}.video{i}.resized_u8"].float() / 255 for i in range(len(facts["videos"]))]
    seen = torch.cat([qwen.patches(qwen.ready(clip[None], clip.shape[-2:])) for clip in resized])
    record = SET.tensors[f"{case}.pixel_values_videos"]
    torch.testing.assert_close(seen, record, atol=1e-5, rtol=0)
    pixels = record.clone().requires_grad_()
    ids = SET.tensors[f"{case}.input_ids"]
    network = of_case(case, 0)._judge.network
    places = torch.tensor(facts["special_positions"])
    logits = network(pixels, SET.tensors[f"{case}.video_grid_thw"], ids, places, "video")[..., 0]
    torch.testing.assert_close(logits, SET.tensors[f"{case}.logits"], atol=1e-4, rtol=0)
    logits.sum().backward()
    assert distance(pixels.grad, SET.tensors[f"{case}.grad_pixel_values_videos"]) < 1e-4


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_batch_of_one_size(chunk):
    """Two clips, two prompts of other lengths, padded on the right where they are judged together."""
    case = next(
        case
        for case, facts in CASES.items()
        if len({str(v["frames"]) for v in facts["videos"]}) == 1 < len(facts["videos"])
    )
    frames = torch.stack([SET.tensors[f"{case}.video{i}.frames_u8"] for i in range(2)]).float() / 255
    frames.requires_grad_()
    scores = of_case(case, 0, chunk=chunk).score(frames, [Prompt(text) for text in CASES[case]["prompts"]])
    torch.testing.assert_close(raw(scores), SET.tensors[f"{case}.float.logits"], atol=1e-4, rtol=0)
    (scores["score"] * torch.tensor([1.0, -2.0])).sum().backward()
    for index, factor in enumerate((1.0, -2.0)):
        record = SET.tensors[f"{case}.video{index}.float.grad_frames"] * factor
        assert distance(frames.grad[index][CASES[case]["videos"][index]["sampled"]], record) < 1e-4


@pytest.mark.parametrize("row", SET.facts["frame_sampling_table"], ids=str)
def test_frame_sampling(row):
    """Where the reference takes an odd number, ours is followed by its last frame; where it fails, see below."""
    if row["nframes"] == "ValueError":
        assert row["total_frames"] == 1
        return
    odd = row["nframes"] % 2
    count = None if "fps" in row else SET.facts["odd_frame_count"]["num_frames"] if odd else row["nframes"]
    found = sampling.evenly_by_time(row["total_frames"], row["video_fps"], row.get("fps"), count)
    assert found == row["indices"] + row["indices"][-1:] * odd


@pytest.mark.parametrize("row", SET.facts["smart_resize_table"]["rows"], ids=lambda row: f"{row['h']}x{row['w']}")
@pytest.mark.parametrize(("key", "most"), [("max_pixels_200704", 200704), ("max_pixels_76800_with_min_100352", 76800)])
def test_sizes(row, key, most):
    least = SET.facts["smart_resize_table"]["min_pixels"]
    if row[key] == "ValueError":
        with pytest.raises(ValueError, match=f"frames are {row['h']}x{row['w']}; expected an aspect of at most 200"):
            sampling.size_within(row["h"], row["w"], least, most, qwen.FACTOR)
    else:
        assert list(sampling.size_within(row["h"], row["w"], least, most, qwen.FACTOR)) == row[key]


SMALL = {"min_pixels": 784, "max_pixels": 3136}


def test_an_odd_count_takes_its_last_frame_twice():
    """The reference's processor fails on it."""
    odd = SET.facts["odd_frame_count"]
    reward = build(num_frames=odd["num_frames"], **SMALL)
    places = reward.places(odd["frames"])
    assert places == [*range(odd["frames"]), odd["frames"] - 1]
    frames = torch.rand(1, odd["frames"], 3, 32, 48, generator=torch.Generator().manual_seed(0))
    scores = reward.score(frames, [Prompt("snow")])["score"]
    again = reward.score(torch.cat([frames, frames[:, -1:]], 1), [Prompt("snow")])["score"]
    torch.testing.assert_close(scores, again, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [2, 3, 5])
def test_short_clips(frames):
    scores = build(**SMALL).score(torch.rand(1, frames, 3, 32, 48), [Prompt("snow")])
    assert all(score.isfinite().all() for score in scores.values())


def test_a_single_frame_is_refused():
    with pytest.raises(ValueError, match=r"got 1 frame a clip; expected 2 or more. Set `frames: \{mode: all\}`"):
        build(**SMALL).score(torch.rand(1, 1, 3, 32, 48), [Prompt("snow")])


@pytest.mark.parametrize("token", ["<|MQ_reward|>", "<|im_end|>", "<|video_pad|>"])
def test_a_prompt_with_a_token_of_the_network(token):
    with pytest.raises(SpecError, match=r"holds '<.*Remove it"):
        build(**SMALL).score(torch.rand(2, 2, 3, 32, 48), [Prompt("snow"), Prompt(f"a {token} cat")])


def test_only_text_alignment_reads_the_prompt():
    frames = torch.rand(1, 4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    one, other = (build(**SMALL).score(frames, [Prompt(text)]) for text in ("snow", "a fox"))
    assert [torch.equal(one[d], other[d]) for d in DIMENSIONS] == [True, True, False]


def test_frames_per_second_of_what_is_decoded():
    """Every second of 32 frames at 8 fps are 16 frames at 4 fps: four seconds, of which eight frames are looked at."""
    video = Video(32, 64, 64, 8.0)
    assert len(build(video=video).places(32)) == len(build(video=video).places(16)) == 8
    assert len(build(video=video, clip_fps=2.0).places(16)) == 16
    assert len(build().places(16)) == 16, "without a rate every frame is looked at"


def test_dimensions():
    frames = torch.rand(1, 2, 3, 32, 48)
    scores = build(dimensions={"MQ": 2.0, "TA": 0.5}, **SMALL).score(frames, [Prompt("snow")])
    torch.testing.assert_close(scores["score"], 2 * scores["MQ"] + 0.5 * scores["TA"])
    for wrong, said in (({"XX": 1.0}, "XX is none of them"), ({}, "none has a weight"), ({"VQ": 0.0}, "none has")):
        with pytest.raises(ValueError, match=f"{said}.*expected weights of some of VQ, MQ, TA"):
            VideoReward.Options(dimensions=wrong)


@pytest.mark.parametrize("options", [{"checkpointing": True}, {"checkpointing": False}, {"offload": True}])
def test_how_it_is_held_changes_no_number(options):
    frames = torch.rand(2, 4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    found = []
    for more in ({}, options):
        leaf = frames.clone().requires_grad_()
        build(**SMALL, **more).score(leaf, [Prompt("snow"), Prompt("a fox")])["score"].sum().backward()
        found.append(leaf.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-8)


def test_half_precision_keeps_a_gradient():
    frames = torch.rand(1, 4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    found = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        leaf = frames.clone().requires_grad_()
        build(dtype=dtype, **SMALL).score(leaf, [Prompt("snow")])["score"].sum().backward()
        found.append(leaf.grad)
    assert distance(found[1], found[0]) < 0.05
    assert distance(found[2], found[0]) < 0.3


def test_quantisation_without_its_package():
    from vader import RegistryError

    chosen = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(RegistryError, match=r"`quantization: .*bitsandbytes.*cannot be had here.*pip install"):
        build(quantization=chosen)
    with pytest.raises(WeightsError, match=r"`quantization: .*refused by transformers.*Expected a quantization_config"):
        build(quantization={"quant_method": "no_such"})


# -- the published layouts


def whole(tmp_path, outputs=1, change=None, step=11):
    """The same model as one file, ``model.pth``, adapters unmerged, as training saves it."""
    folder = tmp_path / "whole"
    (folder / f"checkpoint-{step}").mkdir(parents=True)
    config = json.loads((FOLDER / "model_config.json").read_text())
    config["model_config"]["output_dim"] = outputs
    (folder / "model_config.json").write_text(json.dumps(config))
    tensors = {k.removeprefix("model."): t for k, t in SET.tensors.items() if k.startswith("model.")}
    tensors["base_model.model.lm_head.weight"] = tensors["base_model.model.model.embed_tokens.weight"]
    if outputs == 3:
        head = tensors["base_model.model.rm_head.weight"]
        tensors["base_model.model.rm_head.weight"] = torch.cat([head, 2 * head, 3 * head])
    if change is not None:
        change(tensors)
    torch.save(tensors, folder / f"checkpoint-{step}" / "model.pth")
    return folder


def bare(tmp_path):
    """The base model's configuration and tokenizer alone."""
    folder = tmp_path / "bare"
    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def scores_of(reward):
    frames = torch.rand(1, 4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    return raw(reward.score(frames, [Prompt("snow")]))


def test_both_layouts_are_one_model(tmp_path):
    pair = build(**SMALL)
    one = build(whole(tmp_path), bare(tmp_path), **SMALL)
    torch.testing.assert_close(scores_of(one), scores_of(pair), atol=1e-5, rtol=0)


def test_one_output_for_each_dimension(tmp_path):
    """The diagonal: row i for token i."""
    pair = build(**SMALL)
    three = build(whole(tmp_path, outputs=3), bare(tmp_path), **SMALL)
    torch.testing.assert_close(scores_of(three), scores_of(pair) * torch.tensor([1.0, 2.0, 3.0]), atol=1e-4, rtol=0)


def test_the_last_step_unless_another_is_named(tmp_path):
    folder = whole(tmp_path)
    shutil.copytree(FOLDER / "checkpoint-7", folder / "checkpoint-7")
    (folder / "checkpoint-x").mkdir()
    assert "checkpoint-11" in str(_path(build(folder)))
    assert "checkpoint-7" in str(_path(build(folder, checkpoint=7)))
    with pytest.raises(WeightsError, match=r"`checkpoint: 8`.*it has 7, 11"):
        build(folder, checkpoint=8)


def _path(reward):
    from vader_rewards.towers import _HELD

    return next(key for key, judge in _HELD.items() if judge is reward._judge)


Q = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(f"{Q}.base_layer.weight"), r"missing.*layers.1.self_attn.q_proj.weight"),
        (lambda t: t.pop(f"{Q}.lora_B.default.weight"), r"missing.*layers.1.self_attn.q_proj.lora_B"),
        (lambda t: t.pop(f"{Q}.base_layer.bias"), "model.layers.1.self_attn.q_proj.bias is missing"),
        (lambda t: t.update({f"{Q}.extra": torch.zeros(1)}), "q_proj.extra is unknown"),
        (lambda t: t.update({f"{Q}.lora_A.default.weight": torch.zeros(3, 64)}), r"shapes \(3, 64\).*lora_r 4"),
        (
            lambda t: t.update({f"{Q}.base_layer.bias": torch.zeros(2)}),
            r"q_proj.bias has shape \(2,\), expected \(64,\)",
        ),
        (lambda t: t.pop("base_model.model.rm_head.weight"), "rm_head.weight is missing"),
        (lambda t: t.update({"base_model.model.rm_head.weight": torch.zeros(2, 64)}), "2 outputs; expected 1 or 3"),
        (lambda t: t.update({"base_model.model.rm_head.bias": torch.zeros(1)}), "rm_head.bias is unknown"),
        (
            lambda t: t.update({"base_model.model.model.embed_tokens.weight": torch.zeros(900, 64)}),
            "knows 900 tokens, but the tokenizer has 917.*set `base`",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, said):
    with pytest.raises(WeightsError, match=said):
        build(whole(tmp_path, change=change))


@pytest.fixture
def pair(tmp_path):
    folder = tmp_path / "pair"
    shutil.copytree(FOLDER, folder)
    return folder


def test_a_pair_needs_both_files_and_the_base(tmp_path, pair):
    with pytest.raises(WeightsError, match=r"no weights of language layers.*hf download"):
        build(pair, bare(tmp_path))
    (pair / "checkpoint-7" / "non_lora_state_dict.pth").unlink()
    with pytest.raises(WeightsError, match=r"neither model.pth nor the pair.*no non_lora_state_dict.pth"):
        build(pair)


def test_a_pair_with_the_resized_vocabulary_beside_the_adapter(pair):
    """Peft puts it there when the vocabulary was resized."""
    path = pair / "checkpoint-7" / "adapter_model.safetensors"
    table = SET.tensors["model.base_model.model.model.embed_tokens.weight"]
    more = {"base_model.model.model.embed_tokens.weight": table, "base_model.model.lm_head.weight": table.clone()}
    save_file({**load_file(path), **more}, path)
    torch.testing.assert_close(scores_of(build(pair, **SMALL)), scores_of(build(**SMALL)), atol=1e-5, rtol=0)


def test_a_pair_without_part_of_the_image_tower(pair):
    path = pair / "checkpoint-7" / "non_lora_state_dict.pth"
    tensors = torch.load(path, weights_only=True)
    del tensors["base_model.model.visual.merger.ln_q.bias"]
    torch.save(tensors, path)
    with pytest.raises(WeightsError, match=r"visual.merger.ln_q.bias is missing"):
        build(pair)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "data_config.prompt_template_type",
            "detailed",
            "prompt_template_type 'detailed'; expected 'detailed_special'",
        ),
        ("model_config.use_special_tokens", False, "use_special_tokens False; expected True"),
        ("peft_lora_config", None, "model_config.json lacks"),
    ],
)
def test_a_model_that_was_trained_otherwise(pair, field, value, said):
    path = pair / "model_config.json"
    config = json.loads(path.read_text())
    part, _, name = field.partition(".")
    if name:
        config[part][name] = value
    else:
        del config[part]
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=said):
        build(pair)


def test_without_an_inference_configuration_scores_are_raw(pair):
    path = pair / "model_config.json"
    config = json.loads(path.read_text())
    del config["inference_config"]
    path.write_text(json.dumps(config))
    frames = torch.rand(1, 4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    found = build(pair, **SMALL).score(frames, [Prompt("snow")])
    torch.testing.assert_close(torch.stack([found[d] for d in DIMENSIONS], 1), scores_of(build(**SMALL)))


def test_a_folder_that_is_another_model(tmp_path, pair):
    (pair / "checkpoint-7").rename(pair / "last")
    with pytest.raises(WeightsError, match="has no folder checkpoint-<step>"):
        build(pair)
    (pair / "model_config.json").unlink()
    with pytest.raises(WeightsError, match=r"model_config.json is missing"):
        build(pair)
