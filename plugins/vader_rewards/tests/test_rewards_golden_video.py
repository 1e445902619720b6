"""Detection, action and JPEG size against the reference's own numbers, and where we differ on purpose."""

import json

import pytest
import torch
from safetensors.torch import load_file

from vader import Prompt
from vader.diffusion.frames import from_signed
from vader_rewards.action import Action
from vader_rewards.detection import Detection
from vader_rewards.jpeg import JpegSize

BOOK = [Prompt("a book"), Prompt("two books")]


def save(model, tensors, folder):
    model.load_state_dict(tensors)
    model.save_pretrained(folder)
    return str(folder)


def weights_of(tensors, prefix):
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


@pytest.fixture(scope="module")
def yolos(golden, tmp_path_factory):
    from transformers import YolosConfig, YolosForObjectDetection

    facts = dict(golden[1]["yolos"]["config"])
    facts["id2label"] = {int(key): name for key, name in facts["id2label"].items()}
    facts.pop("num_labels")
    model = YolosForObjectDetection(YolosConfig(**facts))
    return save(model, weights_of(golden[0], "yolos"), tmp_path_factory.mktemp("yolos"))


def confidences(golden, case, labels=("dog", "book", "cup", "N/A")):
    """The reference's confidence of each image, from the logits on record; None without a detection."""
    best, label = golden[0][f"objdet_yolos.{case}.logits"].softmax(-1)[..., :-1].max(-1)
    hits = (label == labels.index("book")) & (best > 0.2)
    return [float(row[hit].mean()) if hit.any() else None for row, hit in zip(best, hits, strict=True)]


def detect(yolos, cpu, tensors, case, **options):
    options = {"object": "book", "weights": yolos, "preprocess": "reference", **options}
    pixels = tensors[f"objdet_yolos.{case}.frames"].clone().requires_grad_()
    score = Detection(Detection.Options(**options), cpu).score(from_signed(pixels)[:, None], BOOK)
    return score, pixels


@pytest.mark.parametrize("below", ["soft", "zero"])
@pytest.mark.parametrize("case", ["both", "f96"])
def test_detection(golden, yolos, cpu, case, below):
    tensors, facts = golden
    score, pixels = detect(yolos, cpu, tensors, case, below=below)
    (1 - score).mean().backward()
    result = facts["results"][f"objdet_yolos.{case}"]
    assert None not in confidences(golden, case)
    assert (1 - score).mean().item() == pytest.approx(result["loss"], rel=1e-4)
    assert score.mean().item() == pytest.approx(result["reward"], rel=1e-4)
    record = tensors[f"objdet_yolos.{case}.grad"]
    assert (pixels.grad - record).abs().max() < 1e-4 * record.abs().max()


def test_detection_second_only(golden, yolos, cpu):
    """The first image has none: nothing is lost by the reference's reset, so with `below: zero` we agree."""
    tensors, facts = golden
    score, pixels = detect(yolos, cpu, tensors, "second_only", below="zero")
    (1 - score).mean().backward()
    record = tensors["objdet_yolos.second_only.grad"]
    assert (1 - score).mean().item() == pytest.approx(facts["results"]["objdet_yolos.second_only"]["loss"], rel=1e-4)
    assert (pixels.grad - record).abs().max() < 1e-4 * record.abs().max()
    assert pixels.grad[0].abs().max() == 0


def test_detection_does_not_reset_the_sum(golden, yolos, cpu):
    """REFERENCE.md, wrong 4: an image without a detection resets the reference's sum to 0."""
    tensors, facts = golden
    first, second = confidences(golden, "first_only")
    assert second is None
    score, _ = detect(yolos, cpu, tensors, "first_only", below="zero")
    assert facts["results"]["objdet_yolos.first_only"]["loss"] == 0
    assert (1 - score).mean().item() == pytest.approx(first / 2, rel=1e-4)
    assert first / 2 == pytest.approx(0.111, abs=1e-3)


@pytest.mark.parametrize("goal", ["remove", "favour"])
def test_detection_keeps_a_gradient_when_nothing_is_found(golden, yolos, cpu, goal):
    tensors, _ = golden
    hard, pixels = detect(yolos, cpu, tensors, "none", below="zero", goal=goal)
    assert torch.equal(hard, torch.ones(2) if goal == "remove" else torch.zeros(2))
    assert torch.autograd.grad(hard.sum(), pixels)[0].abs().max() == 0
    soft, pixels = detect(yolos, cpu, tensors, "none", goal=goal)
    confidence = soft if goal == "favour" else 1 - soft
    assert ((confidence > 0) & (confidence < 0.3)).all()
    assert torch.autograd.grad(soft.sum(), pixels)[0].abs().amax((1, 2, 3)).min() > 1e-6


def test_detection_of_an_object_that_is_no_class(yolos, cpu):
    with pytest.raises(ValueError, match=r"'boook' names none of its 4 classes\. Nearest: 'book'"):
        Detection(Detection.Options(object="boook", weights=yolos), cpu)


def test_detection_reads_the_object_of_each_prompt(golden, yolos, cpu):
    """Two objects in one batch; a prompt that names none is an error."""
    reward = Detection(Detection.Options(weights=yolos, preprocess="reference"), cpu)
    frames = from_signed(golden[0]["objdet_yolos.both.frames"])[:, None]
    mixed = reward.score(frames, [Prompt("x", {"object": "book"}), Prompt("y", {"object": "a cup"})])
    books = reward.score(frames, [Prompt("x", {"object": "book"})] * 2)
    assert mixed[0] == books[0]
    assert mixed[1] != books[1]
    with pytest.raises(ValueError, match="no object to look for in prompt 'a book'"):
        reward.score(frames, BOOK)


@pytest.fixture(scope="module")
def dino(tmp_path_factory, request):
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    folder = request.config.rootpath / "tests" / "golden"
    facts = json.loads((folder / "rewards_groundingdino_a.json").read_text(encoding="utf-8"))
    tensors = {
        name: t if t.dtype == torch.int64 else t.float()
        for name, t in load_file(folder / "rewards_groundingdino_a.safetensors").items()
    }
    sizes = facts["config"]
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(**sizes["backbone"]), text_config=BertConfig(**sizes["text"]), **sizes["gdino"]
    )
    model = GroundingDinoForObjectDetection(config)
    return save(model, weights_of(tensors, "gdino"), tmp_path_factory.mktemp("dino")), tensors, facts


class FakeTokenizer:
    """Gives the recorded ids, and remembers what it was asked."""

    def __init__(self, ids):
        self.ids, self.asked = ids, []

    def __call__(self, texts, **_):
        from transformers import BatchEncoding

        self.asked += texts
        ids = self.ids.expand(len(texts), -1)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


@pytest.fixture
def grounded(dino, cpu, monkeypatch):
    tokenizer = FakeTokenizer(dino[1]["input_ids"])
    monkeypatch.setattr("vader_rewards.weights.tokenizer", lambda *_: tokenizer)
    options = {"engine": "grounding_dino", "object": "a Book", "weights": dino[0], "preprocess": "reference"}
    return Detection(Detection.Options(below="zero", **options), cpu), tokenizer


@pytest.mark.parametrize("case", ["b1_hit", "b1_hit2", "b1_none"])
def test_grounding_dino(dino, grounded, case):
    _, tensors, facts = dino
    pixels = tensors[f"{case}.frames"].clone().requires_grad_()
    score = grounded[0].score(from_signed(pixels)[:, None], [Prompt("x")])
    (1 - score).mean().backward()
    assert (1 - score).item() == pytest.approx(facts["results"][case]["loss"], rel=1e-4)
    record = tensors[f"{case}.grad"]
    assert (pixels.grad - record).abs().max() <= 1e-4 * record.abs().max()
    assert grounded[1].asked == ["a book."]


def test_grounding_dino_on_a_batch(dino, grounded):
    """REFERENCE.md, wrong 5: the reference fails for batch above 1. A batch gives what its clips give alone."""
    _, tensors, facts = dino
    frames = from_signed(torch.cat([tensors["b1_hit.frames"], tensors["b1_hit2.frames"]]))
    score = grounded[0].score(frames[:, None], [Prompt("x")] * 2)
    alone = torch.tensor([facts["results"][case]["reward"] for case in ("b1_hit", "b1_hit2")])
    torch.testing.assert_close(score, alone, rtol=1e-4, atol=0)


@pytest.fixture(scope="module")
def videomae(golden, tmp_path_factory):
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    facts = dict(golden[1]["videomae"])
    facts["id2label"] = {int(key): name for key, name in facts["id2label"].items()}
    facts.pop("num_labels")
    model = VideoMAEForVideoClassification(VideoMAEConfig(**facts))
    return save(model, weights_of(golden[0], "videomae"), tmp_path_factory.mktemp("videomae"))


@pytest.mark.parametrize("prompt", ["a man playing piano", "jogging"])
@pytest.mark.parametrize("size", ["f40", "f96"])
def test_action(golden, videomae, cpu, size, prompt):
    tensors, facts = golden
    key = f"actpred.{size}.{prompt.replace(' ', '_')}"
    pixels = tensors[f"actpred.{size}.frames"].clone().requires_grad_()
    reward = Action(Action.Options(weights=videomae, preprocess="reference"), cpu)
    score = reward.score(from_signed(pixels)[None], [Prompt(prompt)])
    (-score).mean().backward()
    assert -score.item() == pytest.approx(facts["results"][key]["loss"], rel=1e-4)
    assert score.exp().item() == pytest.approx(facts["results"][key]["score"], rel=1e-4)
    assert pixels.grad.norm().item() == pytest.approx(facts["results"][key]["gradnorm"], rel=1e-4)
    if f"{key}.grad" in tensors:
        record = tensors[f"{key}.grad"]
        assert (pixels.grad - record).abs().max() < 1e-4 * record.abs().max()


@pytest.mark.parametrize("count", [1, 2, 3, 6, 11])
def test_action_takes_any_number_of_frames(golden, videomae, cpu, count):
    """REFERENCE.md, wrong 12: the reference's action reward accepts frame mode `alt` only."""
    frames = from_signed(golden[0]["actpred.f40.frames"])[torch.arange(count) % 6]
    reward = Action(Action.Options(weights=videomae, scale="probability", action="jogging"), cpu)
    score = reward.score(torch.stack([frames, frames]), [Prompt("x"), Prompt("y")])
    assert ((score > 0) & (score < 1)).all()
    assert score[0] == pytest.approx(score[1])


def test_jpeg_size(golden):
    frames = from_signed(golden[0]["frames.f96"])[:, None].requires_grad_()
    score = JpegSize(JpegSize.Options(favour="large")).score(frames, [])
    facts = golden[1]["jpeg_compressibility_kB_q95"]
    torch.testing.assert_close(score, torch.tensor(facts["sizes"]), rtol=0.01, atol=0)  # encoders differ by a few bytes
    assert not score.requires_grad
    assert torch.equal(JpegSize(JpegSize.Options()).score(frames, []), -score)
