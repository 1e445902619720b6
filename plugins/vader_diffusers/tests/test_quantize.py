"""Base weights in fewer bits: what is refused, what is held, and that gradients pass them."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from vader import RunSpec, Runtime, SpecError, WeightsError
from vader.backbones.packed import Packed
from vader.backbones.quantization import SCHEMES
from vader.estimation import estimate
from vader.resolve.validate import check
from vader.spec import AdapterSpec
from vader.weights import lora
from vader.weights.lora.adapter import Adapter
from vader_diffusers.wan import Wan, WanOptions

CPU = torch.device("cpu")
REWARD = Path(__file__).resolve().parents[3] / "tests" / "memory_reward.py"
CONTEXT = {"encoder_hidden_states": torch.linspace(-1, 1, 4 * 32).reshape(1, 4, 32)}
TARGETS = ("to_q", "ffn.net.2")


def spec(folder, name="wan", **options):
    return {
        "backbone": {"name": name, "options": {"weights": str(folder), **options}, "adapter": {"rank": 4}},
        "video": {"frames": 5, "height": 32, "width": 32},
        "sampler": {"steps": 2},
        "prompts": {"name": "list", "options": {"prompts": ["a fox"]}},
        "rewards": [{"name": f"{REWARD}:Small", "label": "small"}],
        "train": {"device": "cpu"},
        "validation": {"clips": 0},
    }


def gradients(denoiser):
    """Of an adapter with known numbers, by name."""
    parameters = [(name, p) for name, p in denoiser.named_parameters() if p.requires_grad]
    for place, (_, parameter) in enumerate(parameters):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place))
        parameter.data.copy_(0.1 * noise)
    latents = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(7), requires_grad=True)
    output = denoiser(latents, torch.tensor([500.0]), **CONTEXT, return_dict=False)[0]
    output.square().mean().backward()
    return {"output": output.detach(), "latents": latents.grad, **{name: p.grad for name, p in parameters}}


def kept(layer):
    """Shapes of what autograd keeps of a call of a layer."""
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (shapes.append(tuple(t.shape)), t)[1], lambda t: t):
        layer(torch.zeros(3, layer.in_features, requires_grad=True))
    return shapes


@pytest.mark.parametrize(
    ("quantize", "there", "said"),
    [
        ("torchao_int8", False, "it needs torchao, which is not installed. Run `pip install "),
        ("bnb_nf4", False, "it needs bitsandbytes, which is not installed"),
        ("bnb_int8", True, "bitsandbytes quantises on a CUDA device; this run is on cpu. Use torchao_int8"),
    ],
)
def test_what_cannot_be_had_is_said_before_weights_are_looked_for(monkeypatch, quantize, there, said):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)
    with pytest.raises(SpecError, match=r"backbone\.options\.quantize") as caught:
        Wan(WanOptions(weights="/not/there", quantize=quantize), Runtime(CPU, torch.float32))
    assert said in str(caught.value)


def test_moved_experts_are_not_quantised():
    with pytest.raises(SpecError, match="quantised experts are not moved"):
        check(spec("/not/there", "wan22", quantize="bnb_nf4", expert_offload="cpu"))


def test_conditioning_is_the_same(load, wan):
    assert WanOptions(quantize="bnb_nf4").quantize == "bnb_nf4"
    text = load(quantize="none").text
    before = text.key(wan.video)
    object.__setattr__(text._parts.options, "quantize", "torchao_int8")
    assert text.key(wan.video) == before


@pytest.mark.parametrize(
    ("quantize", "size"),
    [
        ("bnb_nf4", 32 * 64 // 2 + 32 + 4),  # a byte for each 64 weights, four for each 256 of these
        ("bnb_int8", 32 * 64 + 4 * 32),
        ("torchao_int8", 32 * 64 + 4 * 32),
        ("torchao_fp8", 32 * 64 + 4 * 32),
    ],
)
def test_bytes_of_a_layer(quantize, size):
    assert SCHEMES[quantize].size(32, 64) == size


@pytest.mark.parametrize("keeps", [True, False])
def test_a_stand_in_has_the_shapes_and_keeps_what_the_scheme_does(keeps):
    layer = Packed(nn.Linear(64, 32).requires_grad_(False), 100, keeps=keeps)
    assert ((64, 32) in kept(layer) or (32, 64) in kept(layer)) == keeps
    x = torch.zeros(2, 3, 64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape


def test_an_estimate_counts_the_blocks_packed_and_the_rest_as_it_is(folder, wan):
    """Without the packages; the adapter stays in float32."""
    plain, packed = (estimate(RunSpec.model_validate(spec(folder, quantize=q))) for q in ("none", "bnb_nf4"))
    row = "weights: denoiser"
    linear = [layer for layer in wan.denoiser.blocks.modules() if isinstance(layer, nn.Linear)]
    saved = sum(layer.weight.nbytes - SCHEMES["bnb_nf4"].size(*layer.weight.shape) for layer in linear)
    assert plain.training.most[row] - packed.training.most[row] == saved > 0
    assert plain.training.most["adapter"] == packed.training.most["adapter"]
    assert plain.training.most["weights: text encoder"] == packed.training.most["weights: text encoder"]


class TestTorchao:
    """With the package, which runs on the CPU."""

    @pytest.fixture(autouse=True)
    def package(self):
        pytest.importorskip("torchao")

    @pytest.mark.parametrize("quantize", ["torchao_int8", "torchao_fp8"])
    def test_gradients_are_those_of_the_dequantised_model(self, load, quantize):
        quantised, plain = load(quantize=quantize).denoiser, load().denoiser
        held = 0
        for name, layer in plain.named_modules():
            if isinstance(layer, nn.Linear):
                weight = quantised.get_submodule(name).weight
                assert (type(weight.data) is not torch.Tensor) == name.startswith("blocks."), name
                if name.startswith("blocks."):
                    held += sum(getattr(weight, part).nbytes for part in weight.tensor_data_names)
                    assert not torch.equal(weight.dequantize(), layer.weight)
                    layer.weight.data.copy_(weight.dequantize())
        assert held
        found, expected = [], []
        for network, into in ((quantised, found), (plain, expected)):
            lora.inject(network, AdapterSpec(rank=4), TARGETS, seed=0)
            into.append(gradients(network))
        assert found[0].keys() == expected[0].keys()
        for name, gradient in expected[0].items():
            torch.testing.assert_close(found[0][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))

    @pytest.mark.parametrize("quantize", ["torchao_int8", "torchao_fp8"])
    def test_an_estimate_counts_what_is_held_and_kept(self, load, folder, quantize):
        denoiser = load(quantize=quantize).denoiser
        held = 0
        for parameter in [*denoiser.parameters(), *denoiser.buffers()]:
            names = getattr(parameter, "tensor_data_names", ())
            held += sum(getattr(parameter, name).nbytes for name in names) if names else parameter.nbytes
        found = estimate(RunSpec.model_validate(spec(folder, quantize=quantize)))
        assert found.training.most["weights: denoiser"] == held
        layer = denoiser.blocks[0].ffn.net[2]
        shapes = {(layer.in_features, layer.out_features), (layer.out_features, layer.in_features)}
        assert bool(shapes & set(kept(layer))) == SCHEMES[quantize].keeps

    def test_a_frozen_adapter_is_refused(self, load):
        with pytest.raises(WeightsError, match="'some' cannot be added to quantised weights"):
            lora.fuse(load(quantize="torchao_int8").denoiser, Adapter(AdapterSpec(), {}, {}), 1.0, "some")


def test_bitsandbytes_holds_what_an_estimate_counts():
    """On the CPU, layer by layer; diffusers' own configuration wants CUDA."""
    bnb = pytest.importorskip("bitsandbytes")
    layer = nn.Linear(256, 512, bias=False)
    settings = {"compress_statistics": True, "quant_type": "nf4", "compute_dtype": torch.float32}
    packed = bnb.nn.Linear4bit(256, 512, bias=False, **settings)
    packed.load_state_dict(layer.state_dict())
    packed.to("cpu")
    state = packed.weight.quant_state
    scales = (state.absmax, state.state2.absmax)
    assert packed.weight.nbytes + sum(scale.nbytes for scale in scales) == SCHEMES["bnb_nf4"].size(512, 256)
    x = torch.randn(3, 256, requires_grad=True)
    packed(x).sum().backward()
    weight = bnb.functional.dequantize_4bit(packed.weight.data, state)
    torch.testing.assert_close(x.grad, torch.ones(3, 512) @ weight, rtol=1e-4, atol=1e-4)
    assert not {(256, 512), (512, 256)} & set(kept(packed))
    assert functional.linear(x, weight).shape == (3, 512)
