"""CLIP-based rewards against the reference's own numbers: score, loss and gradient, on frames that are not square."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vader.diffusion.frames import from_signed
from vader_rewards.clip_heads import Aesthetic, Compression, Weather
from vader_rewards.image_text import ClipText, Hps, PickScore

TIGHT = {"rtol": 1e-4, "atol": 1e-6}
SIZES = ("f40", "f96")


def weights_of(golden, prefix):
    return {name.removeprefix(f"{prefix}."): t for name, t in golden[0].items() if name.startswith(f"{prefix}.")}


@pytest.fixture(scope="module")
def clip(golden, tmp_path_factory):
    """The golden CLIP tower, saved as a user has it."""
    return _clip(golden, "clip", tmp_path_factory)


@pytest.fixture(scope="module")
def pick(golden, tmp_path_factory):
    """The golden PickScore model."""
    return _clip(golden, "pick", tmp_path_factory)


def _clip(golden, name, tmp_path_factory):
    from transformers import CLIPConfig, CLIPModel

    model = CLIPModel(CLIPConfig(**golden[1]["config"][name]))
    model.load_state_dict(weights_of(golden, name))
    folder = tmp_path_factory.mktemp(name)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def open_clip_folder(golden, tmp_path_factory):
    """The golden open_clip model, in the layout of ``local-dir:``."""
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": golden[1]["config"]["open_clip"]}))
    save_file(weights_of(golden, "open_clip"), folder / "open_clip_model.safetensors")
    return str(folder)


@pytest.fixture
def reference(golden, prompts):
    """Compares score, loss and gradient with a record of the reference."""
    tensors, facts = golden

    def compare(reward, case, size, clips, loss_of, score_of=lambda score: score.mean()):
        key = f"{case}.{size}.b{clips}"
        pixels = tensors[f"frames.{size}"][:clips].clone().requires_grad_()
        score = reward.score(from_signed(pixels)[:, None], prompts[:clips])
        assert score.shape == (clips,)
        loss = loss_of(score)
        loss.backward()
        torch.testing.assert_close(score_of(score).detach(), torch.tensor(facts["results"][key]["reward"]), **TIGHT)
        torch.testing.assert_close(loss.detach(), tensors[f"{key}.loss"], **TIGHT)
        torch.testing.assert_close(pixels.grad.norm(), torch.tensor(facts["results"][key]["gradnorm"]), **TIGHT)
        if f"{key}.grad" in tensors:
            error = (pixels.grad - tensors[f"{key}.grad"]).abs().max()
            assert error < 1e-4 * tensors[f"{key}.grad"].abs().max()

    return compare


def fake_tokens(rows):
    """A tokenizer that gives recorded ids for the two golden prompts."""
    order = {"a raccoon plays guitar": 0, "snow on a hill": 1}
    return lambda texts: rows[[order[text] for text in texts]]


class FakeTokenizer:
    def __init__(self, ids, mask):
        self.ids, self.mask = ids, mask

    def __call__(self, texts, **_):
        from transformers import BatchEncoding

        return BatchEncoding({"input_ids": self.ids[: len(texts)], "attention_mask": self.mask[: len(texts)]})


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_aesthetic(reference, clip, published, cpu, size, clips):
    head = str(published / "sac+logos+ava1-l14-linearMSE.pth")
    reward = Aesthetic(Aesthetic.Options(weights=clip, head=head, preprocess="reference"), cpu)
    reference(reward, "aesthetic", size, clips, lambda s: 0.1 * (s - 10).abs().mean())


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["rainy", "snowy"])
def test_weather(reference, clip, published, cpu, kind, size, clips):
    head = str(published / f"{kind}_reward.pt")
    reward = Weather(Weather.Options(weights=clip, head=head, preprocess="reference"), cpu)
    reference(reward, kind, size, clips, lambda s: (s - 1).abs().mean())


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_compression(reference, golden, clip, cpu, tmp_path, size, clips):
    head = tmp_path / "head.pt"
    torch.save(weights_of(golden, "compression_head"), head)
    options = Compression.Options(weights=clip, head=str(head), preprocess="reference")
    reference(Compression(options, cpu), "compression_score", size, clips, lambda s: -s.mean(), lambda s: -s.mean())


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_hps(reference, golden, open_clip_folder, cpu, size, clips):
    reward = Hps(Hps.Options(weights=open_clip_folder, preprocess="reference"), cpu)
    reward._tower.tokenizer = fake_tokens(golden[0]["hps_tokens"])
    reference(reward, "hps", size, clips, lambda s: (1 - s).mean())


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_aesthetic_hps_is_a_weighting(golden, clip, open_clip_folder, published, cpu, prompts, size, clips):
    """The reference's third class is the objective with weights 0.075 (target 10) and 0.5."""
    from vader.methods.objective import Objective, Term

    tensors, facts = golden
    head = str(published / "sac+logos+ava1-l14-linearMSE.pth")
    aesthetic = Aesthetic(Aesthetic.Options(weights=clip, head=head, preprocess="reference"), cpu)
    hps = Hps(Hps.Options(weights=open_clip_folder, preprocess="reference"), cpu)
    hps._tower.tokenizer = fake_tokens(tensors["hps_tokens"])
    pixels = tensors[f"frames.{size}"][:clips].clone().requires_grad_()
    frames = from_signed(pixels)[:, None]
    scores = {"aesthetic": aesthetic.score(frames, prompts[:clips]), "hps": hps.score(frames, prompts[:clips])}
    loss = Objective([Term("aesthetic", 0.075, 10.0), Term("hps", 0.5)]).loss(scores) + 0.5
    loss.backward()
    result = facts["results"][f"aesthetic_hps.{size}.b{clips}"]
    assert loss.item() == pytest.approx(result["loss"], rel=1e-4)
    assert pixels.grad.norm().item() == pytest.approx(result["gradnorm"], rel=1e-4)
    logged = (scores["aesthetic"].mean() + 15 * scores["hps"].mean()) / 2
    assert logged.item() == pytest.approx(result["reward"], rel=1e-4)


@pytest.fixture
def pickscore(golden, pick, cpu, monkeypatch):
    tokenizer = FakeTokenizer(golden[0]["pick_input_ids"], golden[0]["pick_attention_mask"])
    monkeypatch.setattr("vader_rewards.weights.tokenizer", lambda *_: tokenizer)
    return PickScore(PickScore.Options(weights=pick, tokenizer=pick), cpu)


@pytest.mark.parametrize("size", SIZES)
def test_pickscore(reference, pickscore, size):
    reference(pickscore, "pick_score", size, 1, lambda s: (1 - s / 100).abs().mean())


@pytest.mark.parametrize("size", SIZES)
def test_pickscore_compares_each_clip_with_its_own_prompt(golden, pickscore, prompts, size):
    """REFERENCE.md, wrong 3: the reference scores every image against prompt 0. Given prompt 0 twice, so do we."""
    tensors, facts = golden
    frames = from_signed(tensors[f"frames.{size}"])[:, None]
    expected = facts["results"][f"pick_score.{size}.b2"]["reward"]
    right = pickscore.score(frames, prompts)
    pickscore._tokenizer.ids = tensors["pick_input_ids"][[0, 0]]
    pickscore._tokenizer.mask = tensors["pick_attention_mask"][[0, 0]]
    wrong = pickscore.score(frames, prompts)
    assert wrong.mean().item() == pytest.approx(expected, rel=1e-4)
    assert right[0] == wrong[0]
    assert abs(right[1] - wrong[1]) > 0.01


def test_clip_text_of_the_same_model(golden, open_clip_folder, cpu, prompts):
    """On square frames of the network's own size nothing is left of preprocessing: it equals the reference's HPS."""
    frames = torch.nn.functional.interpolate(from_signed(golden[0]["frames.f96"]), (224, 224))[:, None]
    hps = Hps(Hps.Options(weights=open_clip_folder, preprocess="reference"), cpu)
    plain = ClipText(ClipText.Options(model=open_clip_folder), cpu)
    assert hps._tower is plain._tower
    hps._tower.tokenizer = fake_tokens(golden[0]["hps_tokens"])
    torch.testing.assert_close(plain.score(frames, prompts), hps.score(frames, prompts))
