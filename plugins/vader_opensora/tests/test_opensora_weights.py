"""Every way weights can fail is one WeightsError that names the thing, what was expected and the fix."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from vader import WeightsError
from vader_opensora import tiny, weights

DENOISER, VAE, TEXT = "denoiser/model.safetensors", "vae/model.safetensors", "text_encoder/model.safetensors"


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "no config": (lambda f: (f / "denoiser/config.json").unlink(), r"holds no config\.json, only model\.safetensors"),
    "no weights": (lambda f: (f / VAE).unlink(), r"holds no \*\.safetensors, only config\.json"),
    "nothing": (
        lambda f: [path.unlink() for path in (f / "vae").iterdir()],
        r"holds no config\.json and no \*\.safetensors, only nothing",
    ),
    "no folder": (lambda f: shutil.rmtree(f / "text_encoder"), "text_encoder '.*' is no folder here"),
    "config is no JSON": (lambda f: (f / "vae/config.json").write_text("{"), "not readable JSON"),
    "config is no object": (lambda f: (f / "vae/config.json").write_text("[]"), "model_type None; expected 'Video"),
    "another model": (lambda f: edit(f / "denoiser/config.json", model_type="STDiT2"), "'STDiT2'; expected 'STDiT3'"),
    "parts swapped": (
        lambda f: (
            (f / "vae").rename(f / "x") and (f / "denoiser").rename(f / "vae") and (f / "x").rename(f / "denoiser")
        ),
        "model_type 'VideoAutoencoderPipeline'; expected 'STDiT3'",
    ),
    "another architecture": (lambda f: edit(f / "denoiser/config.json", qk_norm=False), "qk_norm False in config.json"),
    "impossible sizes": (lambda f: edit(f / "denoiser/config.json", hidden_size="x"), "no STDiT3 has this config.json"),
    "other sizes": (
        lambda f: edit(f / "denoiser/config.json", mlp_ratio=2.0),
        r"12 weights are of another shape \(spatial_blocks.0.mlp.fc1.bias \(128,\), expected \(64,\)",
    ),
    "deeper": (lambda f: edit(f / "denoiser/config.json", depth=3), r"weights are missing \(spatial_blocks.2"),
    "truncated": (lambda f: truncate(f / DENOISER), r"model.safetensors \([\d,]+ bytes\) is truncated"),
    "truncated text encoder": (lambda f: truncate(f / TEXT), r"model.safetensors \([\d,]+ bytes\) is truncated"),
    "a weight is missing": (
        lambda f: rewrite(f / DENOISER, lambda t: t.pop("final_layer.linear.bias")),
        r"1 weights are missing \(final_layer.linear.bias\)",
    ),
    "a weight too many": (
        lambda f: rewrite(f / VAE, lambda t: t.update(discriminator=torch.zeros(1))),
        r"1 weights are unexpected \(discriminator\)",
    ),
    "a text weight is missing": (
        lambda f: rewrite(f / TEXT, lambda t: t.pop("encoder.final_layer_norm.weight")),
        "is not whole: 1 weights are missing",
    ),
    "no tokenizer": (
        lambda f: [path.unlink() for path in (f / "text_encoder").glob("*token*")],
        "has no vocabulary: its tokenizer does not know",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files(copy, load, name):
    damage, message = DAMAGE[name]
    damage(copy)
    with pytest.raises(WeightsError, match=message) as caught:
        load(copy)
    assert str(copy) in str(caught.value)


def test_the_message_says_what_to_do(copy, load):
    (copy / DENOISER).unlink()
    with pytest.raises(WeightsError, match=r"Set backbone.options.denoiser to hpcai-tech/OpenSora-STDiT-v3, or to a"):
        load(copy)


def test_parts_of_two_models(copy, load, folder, tmp_path):
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    T5EncoderModel(T5Config(vocab_size=300, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path / "t5"
    )
    AutoTokenizer.from_pretrained(folder / "text_encoder").save_pretrained(tmp_path / "t5")
    with pytest.raises(WeightsError, match="width of the text embeddings: 24, expected 16"):
        load(copy, text_encoder=str(tmp_path / "t5"))


@pytest.mark.parametrize("name", ["/no/such/folder", "./x", "~/no/such/x", "x", "a/b/c", "../x"])
def test_missing_folder_is_told_from_a_hub_id(load, name):
    with pytest.raises(WeightsError, match=r"vae '.*' is no folder here, nor a hub id"):
        load(vae=name)


def test_a_file_is_no_folder(load, folder):
    with pytest.raises(WeightsError, match="is a file, not a folder"):
        load(vae=str(folder / VAE))


def test_names_are_judged_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(weights, "_folder", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(WeightsError, match="text_encoder 'nowhere'"):
        weights.locate(None, {"denoiser": None, "vae": None, "text_encoder": "nowhere"})


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub's client without a connection, with a cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_hub_id_offline(offline, load):
    with pytest.raises(WeightsError, match="hf download some-one/vae") as caught:
        load(vae="some-one/vae")
    assert "HF_HUB_OFFLINE" in str(caught.value)


def test_the_hub_is_the_default(offline):
    with pytest.raises(WeightsError, match="hpcai-tech/OpenSora-STDiT-v3 is nothing on this disk, and the hub"):
        weights.locate(None, dict.fromkeys(weights.HUB))


def test_hub_id_from_the_cache(offline, folder, load):
    for part, name in (("denoiser", "some--one"), ("text_encoder", "some--t5")):
        repository = offline / f"models--{name}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder / part, repository / "snapshots" / ("0" * 40))
    loaded = load(denoiser="some/one", text_encoder="some/t5")
    assert loaded.denoiser.config.hidden_size == tiny.DENOISER["hidden_size"]


def test_pickled_text_encoder(copy, load):
    """The published T5 is a pickle; it is read as tensors only."""
    state = load_file(copy / TEXT)
    torch.save(state, copy / "text_encoder/pytorch_model.bin")
    expected = load(copy).text_encoder.state_dict()
    (copy / TEXT).unlink()
    found = load(copy).text_encoder.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_weights_in_several_files(copy, load):
    tensors = load_file(copy / DENOISER)
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, copy / f"denoiser/model-{number}.safetensors")
    (copy / DENOISER).unlink()
    found = load(copy).denoiser.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_published_vae_config_means_the_published_sizes(tmp_path, monkeypatch):
    """The published file names its parts and says no sizes."""
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "VideoAutoencoderPipeline", "micro_frame_size": 17, "vae_2d": {}, "vae_temporal": {}})
    )
    built = []
    monkeypatch.setattr(weights, "fill", lambda module, *_: built.append(module))
    vae = weights.load_vae(tmp_path)
    assert (len(vae.state_dict()), vae.window, built) == (517, 5, [vae])


def test_tiny_is_seeded(folder, tmp_path):
    before = torch.random.get_rng_state()
    again, other = tiny.write(tmp_path / "a"), tiny.write(tmp_path / "b", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for file in (DENOISER, VAE, TEXT):
        assert (again / file).read_bytes() == (folder / file).read_bytes()
        assert (other / file).read_bytes() != (folder / file).read_bytes()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 3_000_000
