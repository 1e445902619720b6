"""The recipes are specs that this backbone takes, with the reference's settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import vader
from vader import RunSpec, sdk
from vader.weights.lora import inject
from vader_modelscope.backbone import ModelScope

ROOT = Path(__file__).parents[3]
RECIPES = sorted((Path(__file__).parents[1] / "src" / "vader_modelscope" / "recipes").glob("*.yaml"))


def spec_in(path):
    """The second document: the run spec."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))[1]


def recipe(path):
    """A recipe without the components of other distributions."""
    data = spec_in(path)
    rewards = [{**reward, "name": f"{ROOT / 'tests' / 'fakes.py'}:Brightness"} for reward in data["rewards"]]
    for reward in rewards:
        reward.pop("options", None)
    return {**data, "rewards": rewards, "prompts": {"name": "list", "options": {"prompts": ["a cat"]}}}


def test_there_are_recipes():
    assert [path.stem for path in RECIPES] == ["modelscope-aesthetic-16gb", "modelscope-hps-16gb"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_has_the_reference_s_settings(path):
    RunSpec.model_validate(spec_in(path))
    spec = vader.check(recipe(path))
    assert spec.backbone.name == "modelscope"
    assert (spec.backbone.adapter.rank, spec.video.frames, spec.video.height, spec.video.width) == (16, 16, 384, 384)
    assert (spec.sampler.steps, spec.sampler.guidance_scale, spec.train.learning_rate) == (25, 9.0, 2e-4)
    assert (spec.train.gradient_accumulation, spec.gradient.mode, spec.frames.mode) == (16, "last", "random")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_s_adapter_is_where_it_says(load, small_folder, golden, path):
    """The first is on every linear and convolutional layer, as the reference's; the second on attention and text."""
    from peft.tuners.lora import LoraLayer

    spec = vader.check(recipe(path))
    text = spec.backbone.options.get("text_adapter", False)
    family = replace(ModelScope.family, grid=sdk.Grid(space=2, cell=2))
    kind = type("Small", (ModelScope,), {"family": family})
    denoiser = load(small_folder, kind=kind, text_adapter=text).denoiser
    layers = {name for name, layer in denoiser.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d)}
    inject(denoiser, of_two_resnets(spec.backbone.adapter), ModelScope.lora_target_modules, seed=0)
    found = {name for name, layer in denoiser.named_modules() if isinstance(layer, LoraLayer)}
    if text:
        assert {name.rsplit(".", 1)[-1] for name in found if name.startswith("text_encoder.")} == {
            *("q_proj", "k_proj", "v_proj", "out_proj"),
        }
        assert len(found) == 2 * 4 + 72
    else:
        assert found == layers == set(golden.facts["cloneofsimo"]["modules"])


def of_two_resnets(adapter):
    """A block of the small network has no third resnet; an entry that matches nothing is an error."""
    if adapter.target_modules is None:
        return adapter
    there = [name for name in adapter.target_modules if not name.startswith("resnets.2.")]
    return adapter.model_copy(update={"target_modules": there})


def test_every_layer_of_the_published_size_is_matched_and_nothing_else():
    """The UNet of ali-vilab/text-to-video-ms-1.7b without weights: 1.41 billion parameters, 5.65 GB in float32."""
    from diffusers import UNet3DConditionModel

    with torch.device("meta"):
        unet = UNet3DConditionModel(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=1024)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 1_411_233_860
    targets = vader.check(recipe(RECIPES[0])).backbone.adapter.target_modules
    matched = {
        name for name, _ in unet.named_modules() if any(name == end or name.endswith(f".{end}") for end in targets)
    }
    layers = {name for name, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d)}
    assert len(layers) == 574
    assert matched == layers
