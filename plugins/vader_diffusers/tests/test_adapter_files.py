"""Adapters for Wan in the formats of other programs: what is written, diffusers and those programs' own rules read."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from vader.resolve.components import ResolvedComponent
from vader.resolve.conversion import convert_adapter
from vader.spec import AdapterSpec
from vader.weights import lora
from vader_diffusers import layer_names
from vader_diffusers.wan import Wan, WanOptions

WAN = ResolvedComponent("backbone", "wan", Wan, WanOptions())
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


@pytest.fixture(scope="module")
def saved(folder, tmp_path_factory):
    """An adapter on every linear layer of the blocks, alpha not its rank."""
    transformer = base(folder)
    parameters = lora.inject(transformer, AdapterSpec(rank=2, alpha=3.0, target_modules=TARGETS), (), seed=0)
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(index))
    target = tmp_path_factory.mktemp("adapter")
    lora.save(transformer, target, Wan.denoiser_name)
    return target


def base(folder):
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel.from_pretrained(folder, subfolder="transformer")


@torch.no_grad()
def output(transformer):
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 8, 32, generator=generator)
    return transformer(latents, torch.tensor([500]), text, return_dict=False)[0]


@pytest.fixture(scope="module")
def adapted(folder, saved):
    """The prediction with the adapter, by plain peft."""
    wanted = output(PeftModel.from_pretrained(base(folder), str(saved)).eval())
    assert (wanted - output(base(folder))).abs().max() > 1e-3
    return wanted


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "kohya"])
def test_diffusers_loads_what_is_written(folder, saved, adapted, tmp_path, form):
    from diffusers import WanPipeline

    convert_adapter(WAN, saved, tmp_path / "a.safetensors", form)
    pipeline = WanPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path / "a.safetensors")
    torch.testing.assert_close(output(pipeline.transformer), adapted, atol=1e-5, rtol=0)


def test_videox_fun_merges_what_is_written(folder, saved, adapted, tmp_path):
    """By the rule of its ``merge_lora``: a key without its prefix is a layer's published name, underscores for dots."""
    convert_adapter(WAN, saved, tmp_path / "a.safetensors", "videox_fun")
    state, transformer = load_file(tmp_path / "a.safetensors"), base(folder)
    layers = {_flat(name): layer for name, layer in transformer.named_modules()}
    for key in [key for key in state if key.endswith(".lora_down.weight")]:
        layer = key.removesuffix(".lora_down.weight")
        down, up = state[key], state[f"{layer}.lora_up.weight"]
        with torch.no_grad():
            layers[layer.removeprefix("lora_unet__")].weight.add_(state[f"{layer}.alpha"] / len(down) * up @ down)
    torch.testing.assert_close(output(transformer), adapted, atol=1e-5, rtol=0)


def _flat(name):
    """A layer of diffusers as VideoX-Fun has it, by the table read backwards."""
    import re

    for theirs, ours in layer_names.WAN.items():
        if found := re.fullmatch(ours.replace(".", r"\.").replace("{}", r"(\d+)"), name):
            return theirs.format(*found.groups()).replace(".", "_")
    return name


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "kohya", "videox_fun"])
def test_what_is_written_is_read_again(folder, saved, adapted, tmp_path, form):
    convert_adapter(WAN, saved, tmp_path / "a.safetensors", form)
    transformer, found = base(folder), lora.read(tmp_path / "a.safetensors", Wan.published_layers)
    lora.inject(transformer, found.spec, (), seed=0, tensors=found.state)
    torch.testing.assert_close(output(transformer), adapted, atol=1e-5, rtol=0)


def test_every_published_name_is_a_layer(folder, load):
    """Of a transformer with an image branch, which has all of them."""
    from diffusers import WanTransformer3DModel

    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64}
    layers = WanTransformer3DModel(**sizes, num_layers=1, image_dim=32, added_kv_proj_dim=32)
    known = {name for name, _ in layers.named_modules()}
    assert {ours.format(0) for ours in layer_names.WAN.values()} <= known


def test_a_step_distilled_adapter_is_fused(folder, load, tmp_path):
    """Of the form of lightx2v's: factors without alpha, differences of biases and norms."""
    down, up, bias, norm = torch.randn(4, 32), torch.randn(32, 4), torch.randn(32), torch.randn(32)
    key = "diffusion_model.blocks.0"
    state = {f"{key}.cross_attn.k.lora_down.weight": down, f"{key}.cross_attn.k.lora_up.weight": up}
    state |= {f"{key}.cross_attn.k.diff_b": bias, f"{key}.norm3.diff": norm}
    save_file(state, tmp_path / "a.safetensors")
    wan, plain = load(), base(folder)
    lora.fuse(wan.denoiser, lora.read(tmp_path / "a.safetensors", Wan.published_layers), 0.5, "it")
    with torch.no_grad():
        plain.blocks[0].attn2.to_k.weight.add_(0.5 * up @ down)
        plain.blocks[0].attn2.to_k.bias.add_(0.5 * bias)
        plain.blocks[0].norm2.weight.add_(0.5 * norm)
    torch.testing.assert_close(output(wan.denoiser), output(plain), atol=1e-6, rtol=0)
