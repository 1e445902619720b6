"""One tiny pipeline folder for all tests of the plugin, and the reference's small model with its recorded numbers."""

import functools
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vader import Prompt, Runtime, SamplerContext, Video
from vader.backbones.family import Grid
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.diffusers import DiffusersScheduler
from vader_modelscope import tiny
from vader_modelscope.backbone import ModelScope, ModelScopeOptions

VIDEO = Video(4, 32, 32, 8.0)
GOLDEN = Path(__file__).parents[3] / "tests" / "golden"
CPU = torch.device("cpu")


class Small(ModelScope):
    """The reference's small model: its VAE has two levels rather than four."""

    family = replace(ModelScope.family, grid=Grid(space=2, cell=2))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny pipeline; tests do not change it."""
    return tiny.write(tmp_path_factory.mktemp("modelscope") / "tiny")


@pytest.fixture
def copy(folder, tmp_path):
    """A tiny pipeline of the test's own."""
    return shutil.copytree(folder, tmp_path / "pipeline")


@pytest.fixture(scope="session")
def load(folder):
    """Loads the backbone."""

    def load(weights=folder, dtype=torch.float32, kind=ModelScope, **options):
        backbone = kind(ModelScopeOptions(weights=str(weights), **options), Runtime(CPU, dtype))
        backbone.text.load()
        return backbone

    return load


@pytest.fixture(scope="session")
def modelscope(load):
    """The tiny backbone in float32; tests do not change it."""
    return load()


@pytest.fixture
def pipeline(folder):
    """diffusers' own pipeline from the same folder."""
    from diffusers import TextToVideoSDPipeline

    pipeline = TextToVideoSDPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def sampler():
    """A sampler of so many steps for a backbone."""

    def sampler(backbone, steps, kind="ddim"):
        context = SamplerContext(backbone.schedule, steps, 0.0, VIDEO, CPU)
        if kind == "ddim":
            return DDIM(DDIM.Options(), context)
        return DiffusersScheduler(DiffusersScheduler.Options(scheduler="DPMSolverMultistepScheduler"), context)

    return sampler


@pytest.fixture(scope="session")
def clips(sampler):
    """Latents of two clips, of the seeds 1 and 2."""

    def clips(backbone, prompts, steps=2, window=None, kind="ddim"):
        return rollout(
            functools.partial(backbone.predict, backbone.denoiser),
            sampler(backbone, steps, kind),
            backbone.encode([*map(Prompt, prompts)]),
            ClipNoise((1, 2), backbone.latent_shape(VIDEO), CPU, torch.float32),
            window or Window(steps, steps),
            guidance_scale=5.0,
        )

    return clips


@pytest.fixture
def latents(modelscope):
    """``(2 c f h w)`` of clips of four frames."""
    return torch.randn(2, *modelscope.latent_shape(VIDEO), generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Golden:
    """What the reference computed: its tensors in float32, and what they are."""

    facts: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def under(self, prefix):
        """The tensors below a prefix, without it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}

    def lora_list(self):
        """The reference's own LoRA as it saves it: ``[up, down, ...]`` in the recorded order."""
        recorded = self.under("clone.")
        names = [name.removesuffix(".lora_up") for name in self.facts["cloneofsimo"]["saved_list_order_up"]]
        return [recorded[f"{name}.{half}.weight"] for name in names for half in ("lora_up", "lora_down")]


@pytest.fixture(scope="session")
def golden():
    """The recorded numbers."""
    facts = json.loads((GOLDEN / "modelscope_train_policy_a.json").read_text(encoding="utf-8"))
    tensors = load_file(GOLDEN / "modelscope_train_policy_a.safetensors")
    return Golden(facts, {name: tensor.float() for name, tensor in tensors.items()})


@pytest.fixture(scope="session")
def small_folder(golden, folder, tmp_path_factory):
    """The reference's small model as a pipeline folder, written by diffusers and transformers themselves."""
    from diffusers import AutoencoderKL, UNet3DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    path = shutil.copytree(folder, tmp_path_factory.mktemp("small") / "pipeline")
    config = golden.facts["config"]
    parts = {
        "unet": UNet3DConditionModel(**config["unet"]),
        "vae": AutoencoderKL(**config["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**config["text"])),
    }
    for name, module in parts.items():
        module.load_state_dict(golden.under("text." if name == "text_encoder" else f"{name}."))
        module.save_pretrained(path / name)
    return path


class RecordedTokenizer:
    """Gives the recorded ids, as the reference's stand-in did."""

    model_max_length = 10

    def __init__(self, ids):
        self._ids = ids

    def __call__(self, prompts, **_):
        from types import SimpleNamespace

        return SimpleNamespace(input_ids=torch.tensor([self._ids[prompt] for prompt in prompts]))


@pytest.fixture
def small(load, small_folder, golden):
    """The reference's small model as a backbone of the test's own."""
    backbone = load(small_folder, kind=Small)
    backbone.pipeline.tokenizer = RecordedTokenizer(golden.facts["tokens"])
    return backbone
