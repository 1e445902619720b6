"""Adapter files of other programs: each format read and written, what is not taken refused, frozen ones fused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vader import WeightsError
from vader.resolve.components import ResolvedComponent
from vader.resolve.conversion import convert_adapter
from vader.spec import AdapterSpec
from vader.weights import lora
from vader.weights.lora import FORMATS, PEFT_CONFIG, PEFT_FILE

LAYERS = {"blocks.{}.self_attn.q": "blocks.{}.attn1.to_q", "head.head": "proj_out", "blocks.{}.norm": "blocks.{}.norm1"}
NAMES = {
    "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
    "blocks.1.attn1.to_q": "blocks.1.self_attn.q",
    "proj_out": "head.head",
}
WIDTH = 6


class Backbone:
    """Names its layers otherwise than its authors did."""

    denoiser_name: ClassVar[str | None] = "transformer"
    published_layers: ClassVar[dict[str, str]] = LAYERS


BACKBONE = ResolvedComponent("backbone", "renamed", Backbone)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1 = nn.ModuleDict({"to_q": nn.Linear(WIDTH, WIDTH)})
        self.norm1 = nn.LayerNorm(WIDTH)


class Denoiser(nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.proj_out = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block.norm1(x + torch.tanh(block.attn1["to_q"](x)))  # type: ignore[operator, union-attr, index]
        out: Tensor = self.proj_out(x)
        return out


def factors(ranks: tuple[int, ...] = (2, 2, 2), dtype: torch.dtype = torch.float32) -> dict[str, tuple[Tensor, Tensor]]:
    """First and second factor of every layer."""
    generator, out = torch.Generator().manual_seed(1), {}
    for (layer, width), rank in zip(
        {**dict.fromkeys(list(NAMES)[:2], WIDTH), "proj_out": 4}.items(), ranks, strict=True
    ):
        pair = torch.randn(rank, WIDTH, generator=generator), torch.randn(width, rank, generator=generator)
        out[layer] = pair[0].to(dtype), pair[1].to(dtype)
    return out


def keyed(
    form: str, pairs: dict[str, tuple[Tensor, Tensor]], alphas: dict[str, float] | None = None
) -> dict[str, Tensor]:
    """A file as that program writes it, spelt out by hand."""
    state = {}
    for layer, (down, up) in pairs.items():
        published = NAMES[layer]
        base, a, b = {
            "peft": (f"base_model.model.{layer}", "lora_A", "lora_B"),
            "diffusers": (f"transformer.{layer}", "lora_A", "lora_B"),
            "comfyui": (f"diffusion_model.{published}", "lora_down", "lora_up"),
            "kohya": (f"lora_unet_{published.replace('.', '_')}", "lora_down", "lora_up"),
            "videox_fun": (f"lora_unet__{published.replace('.', '_')}", "lora_down", "lora_up"),
            "original": (published, "lora_A.default", "lora_B.default"),
            "ours, flat": (f"lora_unet_{layer.replace('.', '_')}", "lora_down", "lora_up"),
        }[form]
        state |= {f"{base}.{a}.weight": down, f"{base}.{b}.weight": up}
        if alphas is not None:
            state[f"{base}.alpha"] = torch.tensor(alphas[layer])
    return state


def outputs(adapter: lora.Adapter) -> Tensor:
    denoiser = Denoiser()
    lora.inject(denoiser, adapter.spec, (), seed=0, tensors=adapter.state)
    with torch.no_grad():
        made: Tensor = denoiser(torch.linspace(-1, 1, 5 * WIDTH).reshape(5, WIDTH))
    return made


def expected(pairs: dict[str, tuple[Tensor, Tensor]], scales: dict[str, float]) -> Tensor:
    """By hand: every weight plus its scaled product."""
    denoiser = Denoiser()
    with torch.no_grad():
        for layer, (down, up) in pairs.items():
            denoiser.get_parameter(f"{layer}.weight").add_(scales[layer] * up.float() @ down.float())
        made: Tensor = denoiser(torch.linspace(-1, 1, 5 * WIDTH).reshape(5, WIDTH))
    return made


READ = [*FORMATS, "original", "ours, flat"]


@pytest.mark.parametrize("form", READ)
@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 2, 4)], ids=["one rank", "ranks that differ"])
@pytest.mark.parametrize("said", [True, False], ids=["alpha", "no alpha"])
def test_every_format_is_read(tmp_path: Path, form: str, ranks: tuple[int, ...], said: bool) -> None:
    pairs = factors(ranks)
    alphas = {"blocks.0.attn1.to_q": 1.0, "blocks.1.attn1.to_q": 3.0, "proj_out": 0.5} if said else None
    save_file(keyed(form, pairs, alphas), tmp_path / "a.safetensors")
    adapter = lora.read(tmp_path / "a.safetensors", LAYERS)
    scales = {layer: alphas[layer] / len(down) if alphas else 1.0 for layer, (down, _) in pairs.items()}
    assert adapter.spec.rank == max(ranks)
    assert set(adapter.spec.target_modules or ()) == set(NAMES)
    torch.testing.assert_close(outputs(adapter), expected(pairs, scales), atol=1e-5, rtol=0)
    assert (outputs(adapter) - expected(pairs, dict.fromkeys(pairs, 0.0))).abs().max() > 1e-2


@pytest.mark.parametrize("form", READ)
def test_half_precision_is_read_exactly(tmp_path: Path, form: str) -> None:
    pairs = factors(dtype=torch.bfloat16)
    save_file(keyed(form, pairs, dict.fromkeys(pairs, 4.0)), tmp_path / "a.safetensors")
    adapter = lora.read(tmp_path / "a.safetensors", LAYERS)
    assert (adapter.spec.rank, adapter.spec.alpha) == (2, 4.0)
    for layer, pair in pairs.items():
        assert torch.equal(adapter.state[f"{layer}.lora_A.weight"], pair[0])
        assert torch.equal(adapter.state[f"{layer}.lora_B.weight"], pair[1])


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_every_format_is_converted_to_every_other(tmp_path: Path, source: str, target: str) -> None:
    pairs = factors((2, 3, 2))
    alphas = {"blocks.0.attn1.to_q": 1.0, "blocks.1.attn1.to_q": 3.0, "proj_out": 0.5}
    save_file(keyed(source, pairs, alphas), tmp_path / "a.safetensors")
    out = tmp_path / ("out" if target == "peft" else "out.safetensors")
    convert_adapter(BACKBONE, tmp_path / "a.safetensors", out, target)
    file = out / PEFT_FILE if target == "peft" else out
    known = set(keyed(target, pairs, alphas if FORMATS[target].alpha else None))
    found = {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up") for key in load_file(file)}
    assert found == {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up") for key in known}
    scales = {layer: alphas[layer] / len(down) for layer, (down, _) in pairs.items()}
    torch.testing.assert_close(outputs(lora.read(file, LAYERS)), expected(pairs, scales), atol=1e-5, rtol=0)


def test_a_file_of_another_program_beside_a_configuration_of_peft(tmp_path: Path) -> None:
    """The configuration is another file's."""
    (tmp_path / PEFT_CONFIG).write_text(json.dumps({"r": 9, "lora_alpha": 99, "target_modules": ["x"]}))
    save_file(keyed("kohya", factors(), dict.fromkeys(NAMES, 1.0)), tmp_path / "a.safetensors")
    assert lora.read(tmp_path / "a.safetensors", LAYERS).spec.alpha == 1.0


# -- what is not taken

KEY = "diffusion_model.blocks.0.self_attn.q"
REFUSED: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "DoRA": (lambda s: s.update({f"{KEY}.dora_scale": torch.ones(6, 1)}), rf"is DoRA \({KEY}.dora_scale\)"),
    "DoRA of peft": (lambda s: s.update({"base_model.model.x.lora_magnitude_vector": torch.ones(6)}), "is DoRA"),
    "bias": (lambda s: s.update({f"{KEY}.lora_B.bias": torch.ones(6)}), rf"LoRA with biases \({KEY}.lora_B.bias\)"),
    "LoHa": (lambda s: s.update({f"{KEY}.hada_w1_a": torch.ones(6, 1)}), "is LoHa"),
    "LoKr": (lambda s: s.update({f"{KEY}.lokr_w1": torch.ones(2, 2)}), "is LoKr"),
    "middle": (lambda s: s.update({f"{KEY}.lora_mid.weight": torch.ones(2, 2)}), "middle factor"),
    "text encoder": (
        lambda s: s.update({"lora_te1_x.lora_down.weight": torch.ones(2, 2)}),
        "adapter of a text encoder",
    ),
    "no place": (
        lambda s: s.update({f"{KEY}.{name}": torch.ones(1) for name in ("w1", "w2", "w3", "w4")}),
        rf"'comfyui', and 4 of its 10 have no place \({KEY}.w1, {KEY}.w2, {KEY}.w3, ...\)",
    ),
    "another format": (lambda s: s.update({"lora_unet_x.lora_down.weight": torch.ones(1, 2)}), "no place .lora_unet_x"),
    "one half": (lambda s: s.pop(f"{KEY}.lora_up.weight"), "one factor of two for 1 layers"),
    "not a pair": (lambda s: s.update({f"{KEY}.lora_up.weight": torch.ones(6, 3)}), "do not fit"),
    "no rank": (
        lambda s: s.update({f"{KEY}.lora_up.weight": torch.ones(6, 0), f"{KEY}.lora_down.weight": torch.ones(0, 6)}),
        "do not fit",
    ),
    "not finite": (lambda s: s[f"{KEY}.lora_down.weight"].fill_(float("nan")), "not finite"),
    "infinite": (lambda s: s[f"{KEY}.lora_up.weight"].fill_(float("inf")), "not finite"),
    "alpha 0": (lambda s: s.update({f"{KEY}.alpha": torch.tensor(0.0)}), "alpha of 1 layers is no number above 0"),
    "alpha nan": (lambda s: s.update({f"{KEY}.alpha": torch.tensor(float("nan"))}), "alpha of 1 layers"),
    "whole": (
        lambda s: s.update({f"{KEY}.diff_b": torch.ones(6)}),
        r"1 whole biases or norms \(blocks.0.attn1.to_q.bias",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    state = keyed("comfyui", factors())
    change(state)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        lora.spec_of(tmp_path / "a.safetensors", LAYERS)
    assert str(tmp_path) in str(caught.value)


def test_a_backbone_without_published_names(tmp_path: Path) -> None:
    save_file(keyed("kohya", factors()), tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"'kohya', and 6 of its 6 have no place \(lora_unet_blocks_0_self_attn_q"):
        lora.read(tmp_path / "a.safetensors")


def test_layers_without_a_published_name_are_not_written(tmp_path: Path) -> None:
    state = {"x.lora_A.weight": torch.ones(1, 2), "x.lora_B.weight": torch.ones(2, 1)}
    adapter = lora.Adapter(AdapterSpec(rank=1, target_modules=("x",)), state, {})
    with pytest.raises(WeightsError, match=r"'kohya' names layers as the model's authors do, and 2 .*\(x, x\)"):
        lora.write_file(tmp_path / "a.safetensors", adapter, "kohya", LAYERS)


@pytest.mark.parametrize("form", [None, "peft", "koyha"])
def test_a_file_needs_a_format_of_files(tmp_path: Path, form: str | None) -> None:
    with pytest.raises(WeightsError, match="diffusers, comfyui, videox_fun, kohya; found"):
        convert_adapter(BACKBONE, tmp_path / "a.safetensors", tmp_path / "out.safetensors", form)
    with pytest.raises(WeightsError, match="'comfyui' is one file"):
        convert_adapter(BACKBONE, tmp_path / "a.safetensors", tmp_path / "out", "comfyui")


# -- peft's configuration


def peft_folder(folder: Path, ranks: tuple[int, ...] = (2, 2, 2), **config: Any) -> Path:
    folder.mkdir()
    save_file(keyed("peft", factors(ranks)), folder / PEFT_FILE)
    whole = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["to_q", "proj_out"], **config}
    (folder / PEFT_CONFIG).write_text(json.dumps(whole))
    return folder


HONOURED: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 2, 2), {}),
    "rslora": ((2, 2, 2), {"use_rslora": True}),
    "alpha_pattern": ((2, 2, 2), {"alpha_pattern": {"to_q": 1, "proj_out": 8.0}}),
    "alpha_pattern of one layer": ((2, 2, 2), {"alpha_pattern": {r"blocks\.1\.attn1\.to_q": 1}}),
    "rank_pattern": ((2, 3, 1), {"rank_pattern": {r"blocks.1.attn1.to_q": 3, "proj_out": 1}}),
    "all": ((2, 3, 2), {"rank_pattern": {"1.attn1.to_q": 3}, "alpha_pattern": {"proj_out": 5}, "use_rslora": True}),
    "all linear": ((2, 2, 2), {"target_modules": "all-linear"}),
    "an expression": ((2, 2, 2), {"target_modules": r".*(to_q|proj_out)"}),
    "no targets": ((2, 2, 2), {"target_modules": None}),
    "a misspelt target": ((2, 2, 2), {"target_modules": ["to_q", "proj_out", "to_p"]}),
    "a set that is too small": ((2, 2, 2), {"target_modules": ["to_q"]}),
    "gaussian": ((2, 2, 2), {"init_lora_weights": "gaussian"}),
}


@pytest.mark.parametrize("name", HONOURED)
def test_peft_s_configuration_is_honoured(tmp_path: Path, name: str) -> None:
    """Against peft itself, and after conversion in peft again."""
    from peft import PeftModel

    ranks, config = HONOURED[name]
    folder = peft_folder(tmp_path / "a", ranks, **config)
    x = torch.linspace(-1, 1, 5 * WIDTH).reshape(5, WIDTH)
    theirs = {**config, "target_modules": list(NAMES)}
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(Denoiser(), str(peft_folder(tmp_path / "b", ranks, **theirs))).eval()(x)
        convert_adapter(BACKBONE, folder, tmp_path / "out")
        again = PeftModel.from_pretrained(Denoiser(), str(tmp_path / "out")).eval()(x)
    torch.testing.assert_close(outputs(lora.read(folder)), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(again, wanted, atol=1e-5, rtol=0)


SILENT_TRAPS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "use_dora: True"),
    "LoHa": ({"peft_type": "LOHA"}, "peft_type: 'LOHA'; expected LORA"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa'.*changed the base weights"),
    "fan_in_fan_out": ({"fan_in_fan_out": True}, "fan_in_fan_out: True"),
    "bias": ({"bias": "lora_only"}, "bias: 'lora_only'"),
    "lora_bias": ({"lora_bias": True}, "lora_bias"),
    "saved modules": ({"modules_to_save": ["head"]}, "modules_to_save"),
    "parameters": ({"target_parameters": ["w"]}, "target_parameters"),
    "of the future": ({"use_something": {"new": 1}}, "use_something"),
    "r 0": ({"r": 0}, "r: 0; expected the rank"),
    "r many": ({"r": "many"}, "r: 'many'"),
    "r true": ({"r": True}, "r: True"),
    "alpha missing": ({"lora_alpha": None}, "lora_alpha: None"),
    "alpha negative": ({"lora_alpha": -1}, "lora_alpha: -1"),
    "alpha nan": ({"lora_alpha": float("nan")}, "lora_alpha: nan"),
    "patterns": ({"rank_pattern": [1]}, r"rank_pattern: \[1\]"),
    "a pattern's value": ({"alpha_pattern": {"to_q": "x"}}, "alpha_pattern"),
    "no expression": ({"alpha_pattern": {"(": 1}}, "no regular expression"),
    "another rank": ({"r": 3}, "says rank 3 for blocks.0.attn1.to_q, whose tensors have rank 2"),
}


@pytest.mark.parametrize("name", SILENT_TRAPS)
def test_a_configuration_that_means_something_else_is_refused(tmp_path: Path, name: str) -> None:
    config, message = SILENT_TRAPS[name]
    with pytest.raises(WeightsError, match=message):
        lora.read(peft_folder(tmp_path / "a", **config))


@pytest.mark.parametrize("text", ["[]", "3", "null", '"r"', "{", "[" * 100_000])
def test_a_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    folder = peft_folder(tmp_path / "a")
    (folder / PEFT_CONFIG).write_text(text)
    with pytest.raises(WeightsError, match=r"adapter_config\.json"):
        lora.read(folder)
    (folder / PEFT_CONFIG).unlink()
    save_file(keyed("peft", factors()), folder / PEFT_FILE, {"lora_adapter_metadata": text})
    with pytest.raises(WeightsError, match="lora_adapter_metadata"):
        lora.read(folder)


def test_a_target_module_that_matches_nothing() -> None:
    spec = AdapterSpec(rank=1, target_modules=("to_q", "to_p"))
    with pytest.raises(WeightsError, match=r"no layer matches target_modules \['to_p'\]"):
        lora.inject(Denoiser(), spec, (), seed=0)


# -- frozen ones


def test_a_frozen_adapter_is_fused() -> None:
    pairs, denoiser = factors((1, 2, 3)), Denoiser()
    state = {
        f"{layer}.lora_{half}.weight": t for layer, pair in pairs.items() for half, t in zip("AB", pair, strict=True)
    }
    state = {key: t for key, t in state.items() if key.startswith("blocks.1")}
    whole = {"blocks.0.norm1.weight": torch.full((WIDTH,), 0.5), "proj_out.bias": torch.ones(4)}
    before = {name: parameter.clone() for name, parameter in denoiser.named_parameters()}
    lora.fuse(denoiser, lora.Adapter(AdapterSpec(rank=2, alpha=6.0), state, whole), 0.5, "it")
    down, up = pairs["blocks.1.attn1.to_q"]
    changes = {"blocks.1.attn1.to_q.weight": 0.5 * 3 * up @ down, **{name: 0.5 * t for name, t in whole.items()}}
    for name, parameter in denoiser.named_parameters():
        torch.testing.assert_close(parameter, before[name] + changes.get(name, 0.0), atol=1e-6, rtol=0)


def test_a_frozen_adapter_of_bf16_weights_is_rounded_once() -> None:
    layer = nn.Sequential(nn.Linear(4, 4, bias=False)).bfloat16()
    weight = layer[0].weight.detach().clone()
    state = {"0.lora_A.weight": torch.randn(2, 4), "0.lora_B.weight": torch.randn(4, 2)}
    lora.fuse(layer, lora.Adapter(AdapterSpec(rank=2), state, {}), 1.0, "it")
    exact = weight.float() + state["0.lora_B.weight"] @ state["0.lora_A.weight"]
    assert torch.equal(layer[0].weight, exact.bfloat16())


@pytest.mark.parametrize("change", [{"x.bias": torch.ones(4)}, {"proj_out.bias": torch.ones(5)}])
def test_a_frozen_adapter_of_another_model(change: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"frozen adapter 'it' is for another model than Denoiser.*1 of the 1"):
        lora.fuse(Denoiser(), lora.Adapter(AdapterSpec(rank=1), {}, change), 1.0, "it")
