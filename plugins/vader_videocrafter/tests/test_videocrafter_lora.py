"""Published adapters: read, used, written back byte for byte; and every way they can be wrong."""

import json
from pathlib import Path

import pytest
import torch

from vader import Prompt, Video, WeightsError
from vader.cli import app as cli
from vader.resolve import conversion
from vader.resolve.components import ResolvedComponent
from vader.spec import AdapterSpec
from vader.weights import lora as adapters
from vader_videocrafter import layout, lora, names, tiny, weights
from vader_videocrafter.backbone import VideoCrafter2, VideoCrafter2Options

GOLDEN = Path(__file__).resolve().parents[3] / "tests" / "golden"
VIDEO = Video(4, 16, 16, 24.0)


def part(weights):
    return ResolvedComponent("backbone", "videocrafter2", VideoCrafter2, VideoCrafter2Options(weights=str(weights)))


def state_of(backbone, path):
    return VideoCrafter2.import_adapter(backbone._options, path)[1]


def read_published(path):
    return torch.load(path, weights_only=True)


@pytest.fixture
def golden_backbone(load, golden_file):
    return load(golden_file)


@pytest.fixture
def loaded(golden_backbone, adapter_file):
    """The golden backbone with the published adapter, put on it as the core does."""
    spec = VideoCrafter2.adapter_spec(adapter_file)
    adapters.inject(golden_backbone.denoiser, spec.model_copy(update={"init": None}), (), seed=0)
    adapters.restore(golden_backbone.denoiser, state_of(golden_backbone, adapter_file), str(adapter_file))
    return golden_backbone


def clip(backbone):
    """One prediction, decoded."""
    latents = torch.randn(1, *backbone.latent_shape(VIDEO), generator=torch.Generator().manual_seed(0))
    conditioning = backbone.encode([Prompt("a fox")])
    with torch.no_grad():
        out = backbone.predict(backbone.denoiser, latents, torch.tensor([500]), conditioning.positive)
        return backbone.decode(out, [0])


def test_rank_alpha_and_targets_come_from_the_file(adapter_file):
    spec = VideoCrafter2.adapter_spec(adapter_file)
    assert spec == AdapterSpec(rank=4, alpha=8.0, target_modules=("to_k", "to_q", "to_v"), init=str(adapter_file))


def test_load_generate_export(loaded, adapter_file, golden_file, tmp_path):
    """The exported file is the published one: key names, their order, and every byte of every tensor."""
    changed = clip(loaded)
    (tmp_path / "adapter").mkdir()
    adapters.save(loaded.denoiser, tmp_path / "adapter", loaded.denoiser_name)
    conversion.convert_adapter(part(golden_file), tmp_path / "adapter", tmp_path / "out.pt")
    expected, found = read_published(adapter_file), read_published(tmp_path / "out.pt")
    assert list(found) == list(expected)
    assert len(found) == 108
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes()
    adapters.set_scale(loaded.denoiser, 0.0)
    assert not torch.equal(clip(loaded), changed)


def test_scale_zero_is_the_base_model_bit_for_bit(loaded, load, golden_file):
    adapters.set_scale(loaded.denoiser, 0.0)
    assert torch.equal(clip(loaded), clip(load(golden_file)))


def test_another_alpha_is_folded_into_the_tensors(loaded):
    """The reference knows one alpha, 8; what it computes with the file is what the adapter computes here."""
    table = names.unet(loaded.layout.unet)
    state = adapters.state_dict(loaded.denoiser)
    same, doubled = lora.published(state, 8.0, table), lora.published(state, 16.0, table)
    for name, tensor in same.items():
        factor = 2.0 if ".lora_B." in name else 1.0
        assert torch.equal(doubled[name], factor * tensor)


def run(monkeypatch, *arguments):
    """The ``vader`` command: its exit code."""
    monkeypatch.setattr("sys.argv", ["vader", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def test_import_and_export_from_the_command_line(adapter_file, golden_file, tmp_path, capsys, monkeypatch):
    folder, file = tmp_path / "adapter", tmp_path / "out.pt"
    also = ("--backbone", "videocrafter2", "--weights", golden_file)
    assert run(monkeypatch, "convert", "adapter", adapter_file, folder, *also) == 0
    spec = adapters.spec_of(folder)
    assert (spec.rank, spec.alpha, sorted(spec.target_modules)) == (4, 8, ["to_k", "to_q", "to_v"])
    assert run(monkeypatch, "convert", "adapter", folder, file, *also) == 0
    expected, found = read_published(adapter_file), read_published(file)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert capsys.readouterr().out == f"wrote {folder}: rank 4, alpha 8\nwrote {file}: rank 4, alpha 8\n"
    before = file.read_bytes()
    assert run(monkeypatch, "convert", "adapter", folder, file, *also) == 2
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out.pt"]


def test_names_and_shapes_at_real_size(shapes):
    """An adapter of rank 16 on the real denoiser has the reference's 396 tensors, in its order."""
    recorded = json.loads((GOLDEN / "videocrafter_lora_keys_inference_t2v_512_v2.0.json").read_text())
    for configuration in ("t2v_512_v2.0", "t2v_512_v1.0", "t2v_1024_v1.0"):
        sizes = layout.read(shapes(configuration), configuration)
        unet = weights.build(sizes).unet
        with torch.device("meta"):
            adapters.inject(unet, AdapterSpec(rank=16, alpha=8.0), VideoCrafter2.lora_target_modules, seed=0)
        own = {name.replace(".default.", "."): p for name, p in unet.named_parameters() if p.requires_grad}
        found = lora.published(own, 8.0, names.unet(layout.PUBLISHED))
        assert {name: list(p.shape) for name, p in found.items()} == {k: s for k, (s, _) in recorded["keys"].items()}
        assert list(found) == list(recorded["keys"])
        assert sum(p.numel() for p in found.values()) == recorded["n_params"]
        back = names.unet(sizes.unet)
        assert {back.ours(name.removeprefix(lora.PREFIX)) for name in found} == own.keys()


def test_safetensors_with_published_names(adapter_file, golden_backbone, tmp_path):
    from safetensors.torch import save_file

    save_file(read_published(adapter_file), tmp_path / "lora.safetensors")
    assert VideoCrafter2.adapter_spec(tmp_path / "lora.safetensors").rank == 4
    state = state_of(golden_backbone, tmp_path / "lora.safetensors")
    expected = state_of(golden_backbone, adapter_file)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_what_is_no_published_adapter_is_left_to_others(loaded, tmp_path):
    adapters.save(loaded.denoiser, tmp_path)
    (tmp_path / "broken.safetensors").write_text("no")
    for path in (tmp_path, tmp_path / adapters.PEFT_FILE, tmp_path / "broken.safetensors", tmp_path / "x.bin.txt"):
        assert VideoCrafter2.adapter_spec(path) is None


# -- damage


def saved(path, content):
    torch.save(content, path)
    return path


def test_an_adapter_of_another_model(golden_backbone, tmp_path):
    file = saved(tmp_path / "a.pt", {"base_model.model.spatial_blocks.0.attn.qkv.lora_A.weight": torch.ones(4, 8)})
    with pytest.raises(WeightsError, match=r"1 of its 1 tensors belong to no layer .*spatial_blocks"):
        state_of(golden_backbone, file)


def test_an_adapter_of_another_size(golden_backbone, adapter_file, load, tmp_path):
    """Names fit, shapes do not: the core says so."""
    state = read_published(adapter_file)
    file = saved(tmp_path / "a.pt", {name: torch.cat([t, t], dim=1) for name, t in state.items()})
    adapters.inject(golden_backbone.denoiser, AdapterSpec(rank=4), lora.TARGETS, seed=0)
    with pytest.raises(WeightsError, match="108 have another shape"):
        adapters.restore(golden_backbone.denoiser, state_of(golden_backbone, file), str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.lora_A.weight": torch.ones(4, 8), "b.lora_A.weight": torch.ones(2, 8)}, r"ranks \[2, 4\]"),
        ({"a.weight": torch.ones(4, 8)}, "ranks none"),
        ({"a": 3}, "is of type int"),
        ([torch.ones(1)], "without tensors"),
    ],
)
def test_a_file_that_holds_no_adapter(tmp_path, content, message):
    with pytest.raises(WeightsError, match=message):
        VideoCrafter2.adapter_spec(saved(tmp_path / "a.pt", content))


def test_a_truncated_and_a_missing_file(adapter_file, tmp_path):
    (tmp_path / "a.pt").write_bytes(adapter_file.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"5,000 bytes\) is truncated or not"):
        VideoCrafter2.adapter_spec(tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="there is no such file"):
        VideoCrafter2.adapter_spec(tmp_path / "b.pt")


def test_an_adapter_on_other_layers_is_not_exported():
    table = names.unet(tiny.layout("512-v2").unet)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight"
    for state in ({name: torch.ones(1)}, {"blocks.0.attn1.to_q.lora_A.weight": torch.ones(1)}):
        with pytest.raises(WeightsError, match="has no place in VADER's format"):
            lora.published(state, 8.0, table)
