"""The reference's LoRA files become peft adapters; bad ones are refused with a reason."""

import json

import pytest
import torch
from safetensors.torch import load_file

from vader import WeightsError, sdk
from vader.resolve import conversion
from vader.resolve.components import ResolvedComponent
from vader.spec import AdapterSpec
from vader.weights import lora as adapters
from vader_modelscope import lora
from vader_modelscope.backbone import ModelScope, ModelScopeOptions


def convert(source, target, weights):
    conversion.convert_adapter(
        ResolvedComponent("backbone", "modelscope", ModelScope, ModelScopeOptions(weights=str(weights))), source, target
    )
    return target


@pytest.fixture
def file(golden, tmp_path):
    path = tmp_path / "450_unet.pt"
    torch.save(golden.lora_list(), path)
    return path


def test_names_and_tensors(small_folder, golden, file, tmp_path):
    state = adapters.read(convert(file, tmp_path / "adapter", small_folder)).state
    recorded = golden.under("clone.")
    renamed = {"lora_up": "lora_B", "lora_down": "lora_A"}
    for ours, theirs in (
        (name.replace(old, new), name) for name in recorded for old, new in renamed.items() if old in name
    ):
        assert torch.equal(state.pop(ours), recorded[theirs])
    assert not state


def test_layers_of_a_smaller_rank_are_filled_up(small_folder, golden, tmp_path):
    """With rank 16 the reference caps the rank of a layer at its channels; here the rest has rank 4, two layers 2."""
    tensors = golden.lora_list()
    for index in (0, 1, -2, -1):
        tensors[index] = tensors[index].narrow(1 if index % 2 == 0 else 0, 0, 2).clone()
    torch.save(tensors, tmp_path / "capped.pt")
    state = adapters.read(convert(tmp_path / "capped.pt", tmp_path / "adapter", small_folder)).state
    for name, up, down in (("conv_in", *tensors[:2]), ("conv_out", *tensors[-2:])):
        a, b = state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
        assert torch.equal(a[:2], down)
        assert torch.equal(b[:, :2], up)
        assert not a[2:].any()
        assert not b[:, 2:].any()


def save(value):
    return lambda path, _: torch.save(value, path)


BAD = {
    "missing": (lambda path, _: path.unlink(), "no adapter at"),
    "truncated": (
        lambda path, _: path.write_bytes(path.read_bytes()[:5000]),
        r"5,000 bytes\) is truncated or not a file of torch.save",
    ),
    "text": (lambda path, _: path.write_text("hello"), "truncated or not a file of torch.save"),
    "code": (save([print]), r"holds more than tensors and plain values \(print\)"),
    "state dict": (save({"a": torch.zeros(1)}), "holds a dict. Expected a list"),
    "numbers": (save([1, 2]), "holds a list of int"),
    "empty": (save([]), "holds a list of nothing"),
    "odd": (lambda path, tensors: torch.save(tensors[:-1], path), "347 tensors, an odd number"),
    "fewer layers": (lambda path, tensors: torch.save(tensors[:-2], path), "model of 173 layers.*has 174"),
    "halves swapped": (
        lambda path, tensors: torch.save([*tensors[:2], tensors[3], tensors[2], *tensors[4:]], path),
        r"1 layers, such as time_embedding.linear_1: up \(4, 64\) and down \(256, 4\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(small_folder, golden, file, tmp_path, name):
    damage, message = BAD[name]
    damage(file, golden.lora_list())
    with pytest.raises(WeightsError, match=message) as caught:
        convert(file, tmp_path / "adapter", small_folder)
    assert str(file) in str(caught.value)
    assert not (tmp_path / "adapter").exists()


def test_lora_of_another_model(folder, file, tmp_path):
    with pytest.raises(WeightsError, match=r"does not fit the UNet.*conv_in"):
        convert(file, tmp_path / "adapter", folder)


@pytest.mark.parametrize("alpha", [4, 6])
def test_it_is_written_in_the_reference_s_format(small_folder, golden, file, tmp_path, alpha):
    """Tensor by tensor what was read, the second factor with the scale."""
    folder = convert(file, tmp_path / "adapter", small_folder)
    adapter = adapters.read(folder)
    spec = adapter.spec.model_copy(update={"alpha": alpha})
    (tmp_path / "scaled").mkdir()
    sdk.write_adapter(tmp_path / "scaled", adapter.state, spec)
    made = torch.load(convert(tmp_path / "scaled", tmp_path / "back.pt", small_folder))
    given = golden.lora_list()
    assert len(made) == len(given)
    for index, (ours, theirs) in enumerate(zip(made, given, strict=True)):
        assert torch.equal(ours, theirs if index % 2 else theirs * (alpha / adapter.spec.rank))


def test_layers_that_an_adapter_leaves_out_are_zeros(small_folder, golden, file, tmp_path):
    adapter = adapters.read(convert(file, tmp_path / "adapter", small_folder))
    state = {name: tensor for name, tensor in adapter.state.items() if not name.startswith("conv_in.")}
    options = ModelScopeOptions(weights=str(small_folder))
    made, given = lora.published(adapter.spec, state, ModelScope, options), golden.lora_list()
    assert [tensor.shape for tensor in made] == [tensor.shape for tensor in given]
    assert not made[0].any()
    assert not made[1].any()
    assert all(map(torch.equal, made[2:], given[2:]))
    with pytest.raises(WeightsError, match=r"1 tensors of the adapter are for no layer.*\(text_encoder\.x.*split`"):
        lora.published(adapter.spec, {**state, "text_encoder.x": torch.ones(1)}, ModelScope, options)


def test_split(load, tmp_path):
    backbone = load(text_adapter=True)
    adapters.inject(backbone.denoiser, AdapterSpec(rank=2, alpha=6), backbone.lora_target_modules, seed=0)
    (tmp_path / "adapter").mkdir()
    adapters.save(backbone.denoiser, tmp_path / "adapter")
    assert lora.main(["split", str(tmp_path / "adapter"), str(tmp_path / "out")]) == 0
    whole = load_file(tmp_path / "adapter" / adapters.PEFT_FILE)
    unet, text = (load_file(tmp_path / "out" / part / adapters.PEFT_FILE) for part in ("unet", "text_encoder"))
    assert len(whole) == len(unet) + len(text)
    assert "base_model.model.encoder.layers.0.self_attn.q_proj.lora_A.weight" in text
    assert not any("text_encoder" in name for name in unet)
    config = json.loads((tmp_path / "out" / "text_encoder" / adapters.PEFT_CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 6)


def test_split_of_nothing(tmp_path):
    with pytest.raises(WeightsError, match="no adapter at"):
        lora.split(tmp_path, tmp_path / "out")
