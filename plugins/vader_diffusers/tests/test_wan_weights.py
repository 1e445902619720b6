"""Every way weights can fail is one WeightsError that names the thing, what was expected and the fix."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from vader import Prompt, WeightsError
from vader.backbones.family import Grid
from vader.backbones.parts import folder_of
from vader.backbones.schedules import flow_schedule
from vader.weights import pipeline_folder
from vader_diffusers import tiny
from vader_diffusers.wan import Wan

INDEX = "model_index.json"
PIPELINE = folder_of(Wan.family)
DENOISER = "transformer/diffusion_pytorch_model.safetensors"


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_a_weight(path):
    tensors = load_file(path)
    tensors.pop("proj_out.weight")
    save_file(tensors, path, metadata={"format": "pt"})


DAMAGE = {
    "no index": (lambda f: remove(f / INDEX), "model_index.json"),
    "index is no JSON": (lambda f: (f / INDEX).write_text("{"), "not readable JSON"),
    "index is no object": (lambda f: (f / INDEX).write_text("[]"), "expected a JSON object"),
    "image-to-video": (lambda f: edit(f / INDEX, _class_name="WanImageToVideoPipeline"), "WanImageToVideoPipeline"),
    "two transformers": (lambda f: edit(f / INDEX, transformer_2=["diffusers", "X"]), r"Wan 2\.2.*transformer_2"),
    "boundary": (lambda f: edit(f / INDEX, boundary_ratio=0.875), r"Wan 2\.2.*boundary_ratio"),
    "timesteps per token": (lambda f: edit(f / INDEX, expand_timesteps=True), r"Wan 2\.2.*expand_timesteps"),
    "no text encoder": (lambda f: remove(f / "text_encoder"), "has no text_encoder/config.json"),
    "no tokenizer file": (lambda f: remove(f / "tokenizer/tokenizer.json"), "tokenizer cannot be loaded"),
    "no weights": (lambda f: remove(f / DENOISER), "transformer holds no .safetensors file"),
    "truncated": (
        lambda f: truncate(f / DENOISER),
        r"diffusion_pytorch_model.safetensors \([\d,]+ bytes\) is truncated",
    ),
    "a weight is missing": (
        lambda f: drop_a_weight(f / DENOISER),
        r"transformer.*1 weights are missing \(proj_out\.weight\)",
    ),
    "other sizes": (lambda f: edit(f / "transformer/config.json", ffn_dim=32), "transformer cannot be loaded"),
    "epsilon": (lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="epsilon"), "'epsilon'"),
    "dynamic shift": (
        lambda f: edit(f / "scheduler/scheduler_config.json", use_dynamic_shifting=True),
        "constant shift",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_folder(copy, load, name):
    damage, message = DAMAGE[name]
    damage(copy)
    with pytest.raises(WeightsError, match=message) as caught:
        load(copy)
    assert str(copy) in str(caught.value)
    assert "hf download" in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./wan", "~/no/such/wan", "wan", "a/b/c", "../x"])
def test_missing_folder_is_told_from_a_hub_id(name, monkeypatch):
    monkeypatch.setattr(pipeline_folder, "hub_folder", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(WeightsError, match="no folder here"):
        PIPELINE.locate(name)


def test_a_file_is_no_folder(folder):
    with pytest.raises(WeightsError, match="is a file"):
        PIPELINE.locate(str(folder / INDEX))


def test_revision_of_a_local_folder(folder):
    with pytest.raises(WeightsError, match="no revision 'main'"):
        PIPELINE.locate(str(folder), revision="main")


def test_variant_that_is_not_there(folder, load):
    with pytest.raises(WeightsError, match="fp16"):
        load(folder, variant="fp16")


def test_variant(copy, load):
    for file in copy.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert load(copy, variant="fp16").denoiser.dtype == torch.float32


def test_a_part_without_the_variant_has_its_plain_files(copy, load):
    tensors = load_file(copy / DENOISER)
    changed = {name: 2 * tensor if name == "proj_out.weight" else tensor for name, tensor in tensors.items()}
    save_file(changed, (copy / DENOISER).with_suffix(".fast.safetensors"), metadata={"format": "pt"})
    plain, fast = load(copy), load(copy, variant="fast")
    assert torch.equal(fast.denoiser.proj_out.weight, 2 * plain.denoiser.proj_out.weight)
    prompts = [Prompt("a fox")]
    states = [one.encode(prompts).positive["encoder_hidden_states"] for one in (plain, fast)]
    assert torch.equal(*states)


def test_of_a_hub_repository_the_variant_s_files_are_fetched_and_the_plain_ones_of_other_parts(
    copy, tmp_path, monkeypatch
):
    (copy / DENOISER).rename((copy / DENOISER).with_suffix(".fast.safetensors"))
    (copy / DENOISER).write_bytes(b"not wanted")
    cache = tmp_path / "cache"

    def fetch(name, patterns, revision):
        for pattern in patterns:
            for file in copy.glob(pattern):
                (cache / file.relative_to(copy)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, cache / file.relative_to(copy))
        return cache

    monkeypatch.setattr(pipeline_folder, "hub_folder", fetch)
    PIPELINE.locate("some-one/wan", variant="fast")
    weights = {str(file.relative_to(cache)) for file in cache.glob("*/*.safetensors")}
    fast = DENOISER.replace(".safetensors", ".fast.safetensors")
    assert weights == {fast, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub's client without a connection, with a cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_hub_id_offline(offline):
    with pytest.raises(WeightsError, match="hf download some-one/wan") as caught:
        PIPELINE.locate("some-one/wan")
    assert "HF_HUB_OFFLINE" in str(caught.value)


def test_hub_id_from_the_cache(offline, folder, load):
    repository = offline / "models--some-one--wan"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    assert load("some-one/wan").schedule.shift == 3.0


def test_download_judges_before_it_fetches_weights(copy, monkeypatch):
    edit(copy / INDEX, _class_name="WanVACEPipeline")
    asked = []
    monkeypatch.setattr(pipeline_folder, "hub_folder", lambda name, patterns, revision: asked.append(patterns) or copy)
    with pytest.raises(WeightsError, match="WanVACEPipeline"):
        PIPELINE.locate("some-one/wan")
    assert len(asked) == 1
    assert INDEX in asked[0]
    assert all(pattern.endswith(".json") for pattern in asked[0])


def test_class_attributes_are_checked_against_the_checkpoint(load):
    class Other(Wan):
        family = replace(Wan.family, grid=Grid(time=2, time_offset=1, space=8))

    with pytest.raises(WeightsError, match=r"frames per latent frame: 4, expected 2.*in height: 16, expected 8"):
        load(kind=Other)


def test_image_to_video_transformer_in_a_text_to_video_index(copy, load):
    from diffusers import WanTransformer3DModel

    config = json.loads((copy / "transformer/config.json").read_text())
    sizes = {key: value for key, value in config.items() if not key.startswith("_")}
    WanTransformer3DModel(**{**sizes, "in_channels": 36}).save_pretrained(copy / "transformer")
    with pytest.raises(WeightsError, match="channels into the transformer: 36, expected 16"):
        load(copy)


def test_text_embeddings_are_tied_whatever_the_config_says(copy, load, wan):
    """Wan's own text_encoder/config.json says tie_word_embeddings false and its files hold the shared weight alone."""
    edit(copy / "text_encoder/config.json", tie_word_embeddings=False)
    assert set(load_file(copy / "text_encoder/model.safetensors")).isdisjoint({"encoder.embed_tokens.weight"})
    with torch.no_grad():
        assert torch.equal(
            load(copy).encode([Prompt("a fox")]).positive["encoder_hidden_states"],
            wan.encode([Prompt("a fox")]).positive["encoder_hidden_states"],
        )


def test_shift_of_either_kind_of_scheduler():
    assert flow_schedule({"prediction_type": "flow_prediction", "flow_shift": 5.0}, "x", "", None).shift == 5.0
    assert flow_schedule({"shift": 3.0}, "x", "", None).shift == 3.0
    assert flow_schedule({}, "x", "", None).shift == 1.0


def test_tiny_is_seeded(folder, tmp_path):
    before = torch.random.get_rng_state()
    again, other = tiny.write(tmp_path / "a"), tiny.write(tmp_path / "b", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (again / DENOISER).read_bytes() == (folder / DENOISER).read_bytes()
    assert (other / DENOISER).read_bytes() != (folder / DENOISER).read_bytes()
    assert sorted(path.name for path in (folder / "tokenizer").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
