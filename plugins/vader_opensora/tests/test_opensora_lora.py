"""LoRA files of VADER-Open-Sora come in and go out unchanged."""

import json

import pytest
import torch

from vader import WeightsError
from vader.resolve import conversion
from vader.resolve.components import ResolvedComponent
from vader.spec import AdapterSpec
from vader.weights import lora as adapters
from vader.weights.lora import PEFT_CONFIG, PEFT_FILE
from vader_opensora import lora
from vader_opensora.backbone import OpenSora, OpenSoraOptions
from vader_opensora.stdit3 import STDiT3

SIZES = ("depth", "hidden_size", "num_heads", "caption_channels", "model_max_length")


def convert(source, target):
    conversion.convert_adapter(ResolvedComponent("backbone", "opensora", OpenSora, OpenSoraOptions()), source, target)
    return target


@pytest.fixture
def file(lora_file):
    return lora_file


@pytest.fixture
def published(file):
    return torch.load(file, weights_only=True)


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_round_trip(file, published, tmp_path):
    folder = convert(file, tmp_path / "adapter")
    back = convert(folder, tmp_path / "back.pt")
    assert_same(torch.load(back, weights_only=True), published)


def test_import_reads_rank_alpha_and_targets(file, tmp_path):
    folder = convert(file, tmp_path / "adapter")
    spec = adapters.spec_of(folder)
    assert (spec.rank, spec.alpha) == (4, 8)
    assert sorted(spec.target_modules) == sorted(OpenSora.lora_target_modules)
    assert json.loads((folder / PEFT_CONFIG).read_text())["peft_type"] == "LORA"


def test_through_the_network(golden, file, published, tmp_path):
    """In through the core's adapters, into the network, out through the core's adapters: the same file."""
    data = golden("opensora_rflow_a")
    network = STDiT3(**{key: data.json["config"][key] for key in SIZES})
    adapters.inject(network, adapters.spec_of(convert(file, tmp_path / "in")), (), seed=0)
    trained = {name.replace(".default", ""): p for name, p in network.named_parameters() if p.requires_grad}
    assert {f"base_model.model.{name}" for name in trained} == {*data.under("lora.")}
    for name, parameter in trained.items():
        assert torch.equal(parameter, data[f"lora.base_model.model.{name}"])
    (tmp_path / "out").mkdir()
    adapters.save(network, tmp_path / "out")
    assert_same(torch.load(convert(tmp_path / "out", tmp_path / "out.pt"), weights_only=True), published)


def test_export_folds_another_alpha_in(file, published, tmp_path):
    """VADER-Open-Sora always scales by 8 / rank; alpha 4 then means half the second matrix."""
    folder = convert(file, tmp_path / "adapter")
    config = json.loads((folder / PEFT_CONFIG).read_text())
    (folder / PEFT_CONFIG).write_text(json.dumps({**config, "lora_alpha": 4}))
    found = torch.load(convert(folder, tmp_path / "back.pt"), weights_only=True)
    for name, tensor in published.items():
        assert torch.equal(found[name], tensor / 2 if "lora_B" in name else tensor)


def test_files_that_are_no_lora(file, published, tmp_path):
    def refused(match):
        with pytest.raises(WeightsError, match=match) as caught:
            convert(path, tmp_path / "adapter")
        assert "bad.pt" in str(caught.value)
        assert not (tmp_path / "adapter").exists()

    path = tmp_path / "bad.pt"
    refused("no adapter at")
    path.write_bytes(file.read_bytes()[:2000])
    refused("is truncated or not a file of torch.save")
    path.write_bytes(b"hello")
    refused("is truncated or not a file of torch.save")
    for value in (torch.zeros(2), {}, {**published, "step": 3}):
        torch.save(value, path)
        refused("no dictionary of tensors")
    torch.save({name.replace("spatial_blocks", "input_blocks"): t for name, t in published.items()}, path)
    refused("12 of its 24 tensors are of other layers .such as input_blocks")
    name = next(iter(published))
    torch.save({**published, name: published[name][:2]}, path)
    refused(r"ranks \[2, 4\]")


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


def test_code_in_a_file_does_not_run(tmp_path, capsys):
    torch.save({"a": Harmful()}, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match=r"more than tensors and plain values \(print\)"):
        lora.read(tmp_path / "bad.pt")
    assert capsys.readouterr().out == ""


def test_hooks_of_the_backbone(file, published, tmp_path):
    """What is known of a file before the network is loaded, and its tensors by the network's names."""
    assert OpenSora.adapter_spec(file) == AdapterSpec(
        rank=4, alpha=8, target_modules=OpenSora.lora_target_modules, init=str(file)
    )
    assert OpenSora.adapter_spec(tmp_path / "adapter_model.safetensors") is None
    spec, state = OpenSora.import_adapter(OpenSoraOptions(), file)
    assert spec == OpenSora.adapter_spec(file)
    assert {f"base_model.model.{name}" for name in state} == {*published}


def test_export_of_other_layers(tmp_path):
    network = STDiT3(depth=1, hidden_size=8, num_heads=2, caption_channels=4, model_max_length=2)
    adapters.inject(network, AdapterSpec(rank=2), ("fc1",), seed=0)
    (tmp_path / "in").mkdir()
    adapters.save(network, tmp_path / "in")
    with pytest.raises(WeightsError, match=r"6 of its 6 tensors are of other layers .*fc1"):
        convert(tmp_path / "in", tmp_path / "out.pt")


def test_export_of_nothing(tmp_path):
    with pytest.raises(WeightsError, match="no adapter at"):
        convert(tmp_path, tmp_path / "back.pt")
    assert list(tmp_path.iterdir()) == []


def test_import_leaves_one_safetensors_file(file, tmp_path):
    folder = convert(file, tmp_path / "adapter")
    assert [path.name for path in folder.glob("*.safetensors")] == [PEFT_FILE]
