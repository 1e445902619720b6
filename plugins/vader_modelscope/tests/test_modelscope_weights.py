"""Every way weights can fail is one WeightsError that names the thing, what was expected and the fix."""

import json
import shutil

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from vader import Prompt, SamplerContext, Video, WeightsError
from vader.backbones.parts import Parts, folder_of
from vader.backbones.schedules import TINY_ALPHA, diffusion_schedule
from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.diffusers import DiffusersScheduler
from vader.weights import pipeline_folder
from vader_modelscope import tiny
from vader_modelscope.backbone import ModelScope

INDEX = "model_index.json"
PIPELINE = folder_of(ModelScope.family)
UNET = "unet/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_weights(path, drop=(), add=()):
    tensors = load_file(path)
    for name in drop:
        tensors.pop(name)
    save_file({**tensors, **{name: torch.zeros(1) for name in add}}, path, metadata={"format": "pt"})


DAMAGE = {
    "no index": (lambda f: remove(f / INDEX), "model_index.json"),
    "index is no JSON": (lambda f: (f / INDEX).write_text("{"), "not readable JSON"),
    "index is no object": (lambda f: (f / INDEX).write_text("[]"), "expected a JSON object"),
    "another pipeline": (lambda f: edit(f / INDEX, _class_name="WanPipeline"), "is a WanPipeline"),
    "no text encoder": (lambda f: remove(f / "text_encoder"), "has no text_encoder/config.json"),
    "no tokenizer": (lambda f: remove(f / "tokenizer"), "has no tokenizer/tokenizer_config.json"),
    "no weights": (lambda f: remove(f / UNET), "unet holds no .safetensors file, only config.json"),
    "truncated": (lambda f: truncate(f / UNET), r"diffusion_pytorch_model.safetensors \([\d,]+ bytes\) is truncated"),
    "a weight is missing, two are unexpected": (
        lambda f: change_weights(f / UNET, ["conv_out.bias"], ["a", "b"]),
        r"unet are of another UNet3DConditionModel.*1 weights are missing \(conv_out.bias\), 2 are unexpected \(a, b\)",
    ),
    "a weight of the text encoder is missing": (
        lambda f: change_weights(f / "text_encoder/model.safetensors", ["final_layer_norm.weight"]),
        r"text_encoder.*1 weights are missing",
    ),
    "other sizes": (lambda f: edit(f / "unet/config.json", block_out_channels=[64, 64]), "unet cannot be loaded"),
    "other channels": (
        lambda f: edit(f / "vae/config.json", latent_channels=8),
        "channels into the UNet: 4, expected 8; channels out of the UNet: 4, expected 8",
    ),
    "another text encoder": (lambda f: other_text_encoder(f), "width of the text embeddings: 32, expected 16"),
    "another VAE": (lambda f: other_vae(f), "pixels per latent cell: 2, expected 8"),
    "flow": (lambda f: edit(f / SCHEDULER, prediction_type="flow_prediction"), "'flow_prediction'; expected epsilon"),
    "unknown betas": (lambda f: edit(f / SCHEDULER, beta_schedule="cubic"), "no noise schedule: cubic"),
}


def other_text_encoder(folder):
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPTextModel(CLIPTextConfig(vocab_size=520, **sizes)).save_pretrained(folder / "text_encoder")


def other_vae(folder):
    from diffusers import AutoencoderKL

    levels = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(**levels, block_out_channels=(32, 32)).save_pretrained(folder / "vae")


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_folder(copy, load, name):
    damage, message = DAMAGE[name]
    damage(copy)
    with pytest.raises(WeightsError, match=message) as caught:
        load(copy)
    assert str(copy) in str(caught.value)
    assert "hf download" in str(caught.value)


JUDGED_FIRST = ["another pipeline", "truncated", "other channels", "another VAE", "flow", "unknown betas"]


@pytest.mark.parametrize("name", JUDGED_FIRST)
def test_judged_before_any_weight_is_loaded(copy, load, monkeypatch, name):
    monkeypatch.setattr(Parts, "module", lambda *_: pytest.fail("loaded weights"))
    DAMAGE[name][0](copy)
    with pytest.raises(WeightsError):
        load(copy)


@pytest.mark.parametrize("name", ["/no/such/folder", "./ms", "~/no/such/ms", "ms", "a/b/c", "../x"])
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


def test_fp16_variant(folder, load, tmp_path, modelscope):
    """It holds the same numbers rounded, and is loaded in the run's precision."""
    half = tiny.write(tmp_path / "half", variant="fp16")
    assert (half / "unet/diffusion_pytorch_model.fp16.safetensors").stat().st_size < 0.6 * (
        folder / UNET
    ).stat().st_size
    backbone = load(half, variant="fp16")
    assert {part.dtype for part in (backbone.denoiser, backbone.text_encoder, backbone.vae)} == {torch.float32}
    for name, parameter in backbone.denoiser.named_parameters():
        assert torch.equal(parameter, modelscope.denoiser.get_parameter(name).half().float())
    with pytest.raises(WeightsError, match="unet cannot be loaded"):
        load(half)


def test_files_in_the_layout_of_the_published_ones(copy, load, modelscope):
    """Names and tokenizer as transformers 4 wrote them: a prefix, a buffer of positions, vocab.json and merges.txt."""
    file = copy / "text_encoder/model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(file).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(tensors, file, metadata={"format": "pt"})
    (copy / "tokenizer/tokenizer.json").unlink()
    (copy / "tokenizer/vocab.json").write_text(json.dumps(tiny._vocabulary()))
    (copy / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    config = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"}
    (copy / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    with torch.no_grad():
        found, expected = (
            backbone.encode([Prompt("A fox, running")]).positive["encoder_hidden_states"]
            for backbone in (load(copy), modelscope)
        )
    assert torch.equal(found, expected)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub's client without a connection, with a cache of the test's own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_hub_id_offline(offline):
    with pytest.raises(WeightsError, match="hf download some-one/ms") as caught:
        PIPELINE.locate("some-one/ms")
    assert "HF_HUB_OFFLINE" in str(caught.value)


def test_hub_id_from_the_cache(offline, folder, load):
    repository = offline / "models--some-one--ms"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    assert load("some-one/ms").schedule.prediction == "epsilon"


def test_download_judges_before_it_fetches_weights(copy, monkeypatch):
    asked = []
    monkeypatch.setattr(pipeline_folder, "hub_folder", lambda name, patterns, revision: asked.append(patterns) or copy)
    for file in copy.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    PIPELINE.locate("some-one/ms", variant="fp16")
    assert not any("safetensors" in pattern for pattern in asked[0])
    assert {"unet/*.fp16*.safetensors", "tokenizer/*"} <= set(asked[1])
    edit(copy / INDEX, _class_name="WanVACEPipeline")
    with pytest.raises(WeightsError, match="WanVACEPipeline"):
        PIPELINE.locate("some-one/ms")
    assert len(asked) == 3


class TestSchedule:
    def test_is_the_checkpoint_s(self, modelscope):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        schedule = modelscope.schedule
        torch.testing.assert_close(schedule.alphas_cumprod, (1 - betas).cumprod(0), rtol=1e-5, atol=0)
        assert (schedule.prediction, schedule.train_timesteps) == ("epsilon", 1000)
        assert schedule.config["steps_offset"] == 1

    @pytest.mark.parametrize(("theirs", "ours"), [("v_prediction", "v"), ("sample", "sample")])
    def test_other_predictions(self, theirs, ours):
        schedule = diffusion_schedule({"prediction_type": theirs, "num_train_timesteps": 50}, "x", "", None)
        assert (schedule.prediction, schedule.train_timesteps) == (ours, 50)

    @pytest.mark.parametrize("where", ["option", "checkpoint"])
    def test_zero_terminal_snr(self, load, copy, modelscope, where):
        if where == "checkpoint":
            edit(copy / SCHEDULER, rescale_betas_zero_snr=True)
        schedule = load(copy, zero_terminal_snr=where == "option").schedule
        plain = modelscope.schedule.alphas_cumprod
        expected = (1 - rescale_zero_terminal_snr(1 - plain / torch.cat([torch.ones(1), plain[:-1]]))).cumprod(0)
        torch.testing.assert_close(schedule.alphas_cumprod[:-1], expected[:-1], rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(schedule.alphas_cumprod[0], plain[0], rtol=1e-6, atol=0)
        assert plain[-1] > 1e-3
        assert schedule.alphas_cumprod[-1] == TINY_ALPHA
        assert "rescale_betas_zero_snr" not in schedule.config

    @pytest.mark.parametrize("kind", ["ddim", "DPMSolverMultistepScheduler", "DDIMScheduler"])
    def test_samplers_go_from_pure_noise_to_the_clean_latents(self, kind):
        """A v-predicting model of one known clip: from a start without any of it every solver arrives at it."""
        config = {**tiny.SCHEDULER, "prediction_type": "v_prediction"}
        schedule = diffusion_schedule(config, "x", "", ModelScope.Options(zero_terminal_snr=True))
        context = SamplerContext(schedule, 20, 0.0, Video(1, 8, 8), torch.device("cpu"))
        if kind == "ddim":
            sampler = DDIM(DDIM.Options(spacing="trailing"), context)
        else:
            spacing = {"timestep_spacing": "trailing"}
            sampler = DiffusersScheduler(DiffusersScheduler.Options(scheduler=kind, config=spacing), context)
        assert sampler.timesteps[0] == 999
        clean = torch.full((1, 1, 1, 2, 2), 0.7, dtype=torch.float64)
        latents = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for i, time in enumerate(sampler.timesteps):
            alpha = schedule.alphas_cumprod[time]
            noise = (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()
            v = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
            latents = sampler.step(v, i, latents, torch.zeros_like(latents)).prev
        torch.testing.assert_close(latents, clean, atol=0.1, rtol=0)


def test_tiny_is_seeded(folder, tmp_path):
    before = torch.random.get_rng_state()
    again, other = tiny.write(tmp_path / "a"), tiny.write(tmp_path / "b", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (again / UNET).read_bytes() == (folder / UNET).read_bytes()
    assert (other / UNET).read_bytes() != (folder / UNET).read_bytes()
    assert all(tensor.any() for name, tensor in load_file(folder / UNET).items() if name.endswith("weight"))
