"""Questions about clips: every family as transformers' own processor and network do it, and questions that are none."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vader import Prompt, Runtime, SpecError, Video, WeightsError
from vader_rewards import qwen, vlm
from vader_rewards.vlm_question import VlmQuestion

SMALL = {"min_pixels": 784, "max_pixels": 4096}
VIDEO = Video(4, 64, 64, 4.0)


@pytest.fixture(scope="module")
def families(tiny, tmp_path_factory):
    """A tiny network of every family, by ``model_type``."""
    import transformers

    from vader_rewards.tiny.parts import spread, tower

    root = tmp_path_factory.mktemp("families")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "qwen2_vl")
    number = tokenizer.convert_tokens_to_ids
    text = {
        **tower(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=8192),
        "head_dim": 8,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
    }
    vision = {
        "qwen2_5_vl": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        "qwen3_vl": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
    }
    folders = {"qwen2_vl": tiny / "qwen2_vl"}
    for kind, settings in vision.items():
        torch.manual_seed(0)
        tokens = {f"{name}_token_id": number(f"<|{name}_pad|>") for name in ("image", "video")}
        tokens |= {f"vision_{name}_token_id": number(f"<|vision_{name}|>") for name in ("start", "end")}
        model = getattr(transformers, vlm.KINDS[kind])
        config = model.config_class(text_config=text, vision_config=settings, **tokens)
        spread(model(config)).save_pretrained(root / kind)
        tokenizer.save_pretrained(root / kind)
        folders[kind] = root / kind
    return folders


def build(folder, dtype=torch.float32, video=VIDEO, **options):
    chosen = VlmQuestion.Options(weights=str(folder), **{**SMALL, **options})
    return VlmQuestion(chosen, Runtime(torch.device("cpu"), dtype), video)


def clip(seed=0, frames=4, side=64):
    return torch.rand(1, frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def theirs(kind, folder, frames, question, fps):
    """Logits after a question as transformers' processor and network give them, without our code."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
    video = {"qwen3_vl": "Qwen3VLVideoProcessor"}.get(kind, "Qwen2VLVideoProcessor")
    kept = {"do_resize": False, "do_sample_frames": False}
    if kind == "qwen3_vl":
        kept["cap_pixels_per_frame"] = False
    processor = getattr(transformers, f"{names[kind]}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, video)(**kept),
        chat_template=tokenizer.chat_template,
    )
    content = [{"type": "video"}, {"type": "text", "text": question}]
    told = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    if kind == "qwen3_vl":  # released with no marks around all pairs of frames, which transformers 5.24 leaves there
        told = told.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    meta = {"total_num_frames": len(frames), "fps": fps, "frames_indices": list(range(len(frames)))}
    bytes_ = (frames * 255).round().to(torch.uint8)
    inputs = processor(text=[told], videos=[bytes_], video_metadata=[meta], return_tensors="pt", **kept)
    network = getattr(transformers, vlm.KINDS[kind]).from_pretrained(folder).eval()
    with torch.no_grad():
        return network(**inputs).logits[:, -1], inputs["input_ids"]


@pytest.mark.parametrize("kind", vlm.KINDS)
def test_as_transformers_does_it(families, kind):
    """Tokens, patches, positions and logits, at a size that needs no resize."""
    side = 64 if kind == "qwen3_vl" else 56
    frames = (clip(side=side) * 255).round() / 255
    reward = build(families[kind], num_frames=4, video=Video(4, side, side, 4.0), min_pixels=784, max_pixels=side**2)
    question = "Does the clip show snow? Answer Yes or No."
    record, ids = theirs(kind, families[kind], frames[0], question, fps=4.0)
    grid = qwen.grid_of(4, (side, side), reward._look.patch)
    rows = reward._dialogue.encode([question], grid, reward._look.merge, vlm.pair_times(range(4), 4.0))
    assert rows == ids.tolist()
    with torch.no_grad():
        seen = reward._look.patches(frames, (side, side))
        found = vlm.answers(reward._judge.network, seen, grid, rows, 0.5, reward._dialogue.positions)
    torch.testing.assert_close(found, record, atol=1e-4, rtol=1e-4)
    scores = reward.score(frames, [Prompt("snow")])
    odds = record[0, reward._answer] - record[0, reward._against]
    torch.testing.assert_close(scores["score"][0], odds, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores["probability"][0], odds.sigmoid(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", vlm.KINDS)
def test_gradient(families, kind):
    """In float64 by central differences, where a network that rounds to float32 inside allows it: uphill is up."""
    reward = build(families[kind])
    leaf = clip().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.score(leaf, [Prompt("snow")])["score"].sum(), leaf)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (reward.score(leaf + s * 0.05 * direction, [Prompt("snow")])["score"].sum() for s in (1, -1))
    torch.testing.assert_close((ahead - behind) / 0.1, gradient.norm(), rtol=0.05, atol=0)


def test_questions_are_averaged(families):
    texts = ("Does the clip show {prompt}?", "Is it {prompt}?", "Is there {prompt} in a long and winding clip?")
    each = [build(families["qwen2_vl"], questions=(text,)).score(clip(), [Prompt("snow")])["score"] for text in texts]
    together = build(families["qwen2_vl"], questions=texts).score(clip(), [Prompt("snow")])["score"]
    torch.testing.assert_close(together, torch.stack(each).mean(0), atol=1e-5, rtol=1e-4)


def test_questions_of_a_prompt(families):
    reward = build(families["qwen2_vl"])
    plain = reward.score(clip(), [Prompt("x", {"questions": "Is it snow?"})])["score"]
    no = reward.score(clip(), [Prompt("x", {"questions": [{"question": "Is it snow?", "answer": "No"}]})])["score"]
    asked = build(families["qwen2_vl"], questions=("Is it snow?",)).score(clip(), [Prompt("x")])["score"]
    torch.testing.assert_close(plain, asked)
    assert no.item() == 0, "No against No is even"
    mixed = torch.cat([clip(), clip(1)])
    both = reward.score(mixed, [Prompt("x", {"questions": ["Is it snow?", "Is it a fox?"]}), Prompt("a fox")])["score"]
    alone = reward.score(clip(1), [Prompt("a fox")])["score"]
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("own", ["", [], [""], [3], [{"answer": "Yes"}], [{"question": "a", "more": 1}], 7])
def test_metadata_that_is_no_question(families, own):
    with pytest.raises(SpecError, match=r"prompt 'x' has the metadata `questions: .*expected a question, or a list"):
        build(families["qwen2_vl"]).score(clip(), [Prompt("x", {"questions": own})])


def test_against_all_other_tokens(families):
    reward = build(families["qwen2_vl"], against=None, scale="probability")
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]])
    odds = vlm.log_odds(logits, torch.tensor([1, 2]), None)
    chance = logits.softmax(1).gather(1, torch.tensor([[1], [2]]))[:, 0]
    torch.testing.assert_close(odds, (chance / (1 - chance)).log())
    scores = reward.score(clip(), [Prompt("snow")])
    assert 0 < scores["score"].item() < 1
    assert torch.equal(scores["score"], scores["probability"])


@pytest.mark.parametrize("option", ["answer", "against"])
def test_an_answer_of_several_tokens(families, option):
    with pytest.raises(SpecError, match=r"the answer 'Absolutely not' is \d+ tokens \(.*Take a shorter word"):
        build(families["qwen2_vl"], **{option: "Absolutely not"})
    prompt = Prompt("x", {"questions": [{"question": "Is it?", "answer": "Absolutely not"}]})
    with pytest.raises(SpecError, match=r"expected one\. Take a shorter word"):
        build(families["qwen2_vl"]).score(clip(), [prompt])


def test_a_prompt_with_a_token_of_the_network(families):
    with pytest.raises(SpecError, match=r"holds '<\|video_pad\|>', a token of the network"):
        build(families["qwen2_vl"]).score(clip(), [Prompt("a <|video_pad|>")])


def test_a_single_frame(families):
    with pytest.raises(ValueError, match="vlm_question got 1 frame a clip; expected 2 or more"):
        build(families["qwen2_vl"]).score(clip(frames=1), [Prompt("x")])


def test_another_network(families, tiny, tmp_path):
    with pytest.raises(WeightsError, match=r"is a clip; expected one of qwen2_vl, qwen2_5_vl, qwen3_vl"):
        build(tiny / "clip")
    for change, said in (
        ("missing", "are not in its files"),
        ("more", "are unknown to Qwen2VLForConditionalGeneration"),
    ):
        folder = tmp_path / change
        shutil.copytree(families["qwen2_vl"], folder)
        tensors = load_file(folder / "model.safetensors")
        if change == "missing":
            tensors.pop(next(name for name in tensors if "layernorm" in name))
        else:
            tensors["model.visual.extra"] = torch.zeros(1)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=said):
            build(folder)


def test_without_a_template(families, tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(families["qwen2_vl"], folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(WeightsError, match="has no chat template"):
        build(folder)
    import json

    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    old, new = (build(each).score(clip(), [Prompt("snow")])["score"] for each in (folder, families["qwen2_vl"]))
    torch.testing.assert_close(old, new)
