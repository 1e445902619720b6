"""The denoiser gives the reference's numbers, and has the published checkpoint's names and shapes."""

import pytest
import torch

from vader.spec import AdapterSpec
from vader.weights import lora as adapters
from vader_opensora.backbone import OpenSora
from vader_opensora.stdit3 import STDiT3

SET = "opensora_stdit3_a"
SIZES = ("depth", "hidden_size", "num_heads", "caption_channels", "model_max_length", "in_channels")


@pytest.fixture(scope="module")
def data(golden):
    return golden(SET)


@pytest.fixture
def network(data):
    return build(data)


def build(data):
    network = STDiT3(**{key: data.json["config"][key] for key in SIZES}).requires_grad_(False).eval()
    network.load_state_dict(data.under("sd."))
    return network


def with_lora(network, data):
    """The reference's adapter, whose second half is not zero."""
    lora = data.json["lora"]
    spec = AdapterSpec(rank=lora["r"], alpha=lora["lora_alpha"])
    parameters = adapters.inject(network, spec, OpenSora.lora_target_modules, seed=0)
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in data.under("lora.").items()}
    adapters.restore(network, state, SET)
    return parameters


def call(network, data, x=None, **more):
    size = {"height": data["height"][0].item(), "width": data["width"][0].item()}
    arguments = {"fps": data["fps"], "mask": data["mask"], **size, **more}
    return network(data["x"] if x is None else x, data["timestep"], data["y"][:, 0], **arguments)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "more"),
    [("base", {}), ("base_nomask", {"mask": None}), ("base_xmask", {"x_mask": True})],
)
def test_output(network, data, close, name, more):
    if "x_mask" in more:
        more = {"x_mask": data["x_mask"]}
    close(call(network, data, **more), data[f"out.{name}"])


@torch.no_grad()
def test_output_of_both_branches(network, data, close):
    """The reference calls both branches at once, with the prompt's mask for both."""
    empty = network.y_embedder.y_embedding.expand(2, -1, -1)
    sizes = {"height": data["height"][0].item(), "width": data["width"][0].item()}
    given = {"fps": data["fps"], "mask": data["mask"], **sizes}
    branches = [network(data["x"], data["timestep"], y, **given) for y in (data["y"][:, 0], empty)]
    close(torch.cat(branches), data["out.cfg_batch"])


def test_positions(network, data, close):
    height, width = data["height"][0].item(), data["width"][0].item()
    found = network._positions((3, 4), (height * width) ** 0.5, torch.zeros(()))
    close(found[None], data["pos_emb"], 1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("name", "masked"), [("lora", False), ("lora_xmask", True)])
def test_lora_gradients(network, data, close, name, masked, checkpointing):
    with_lora(network, data)
    if checkpointing:
        network.enable_gradient_checkpointing()
    x = data["x"].clone().requires_grad_()
    output = call(network, data, x, x_mask=data["x_mask"] if masked else None)
    close(output.detach(), data[f"out.{name}"])
    loss = output.square().mean()
    close(loss.detach(), data[f"loss.{name}"])
    loss.backward()
    close(x.grad, data[f"grad_{name}.x"])
    if not masked:
        assert_gradients(network, data.under("grad_lora.base_model.model."), close)


def assert_gradients(network, expected, close):
    found = {name.replace(".default", ""): p.grad for name, p in network.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        close(gradient, expected[name])


def test_gradient_checkpointing_recomputes_the_blocks(network, data):
    calls = []
    network.spatial_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    network.enable_gradient_checkpointing()
    x = data["x"].clone().requires_grad_()
    call(network, data, x).sum().backward()
    assert len(calls) == 2


@torch.no_grad()
def test_clips_of_a_batch_do_not_mix(network, data):
    whole = call(network, data)
    alone = network(
        data["x"][1:], data["timestep"][1:], data["y"][1:, 0], fps=data["fps"][1:], height=240, width=426,
        mask=data["mask"][1:],
    )  # fmt: skip
    torch.testing.assert_close(alone, whole[1:], rtol=1e-5, atol=1e-5)


def test_real_size_names_and_shapes(golden):
    listed = golden("opensora_stdit3_xl2_keys").json
    with torch.device("meta"):
        network = STDiT3()
    found = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert found == {name: shape for name, (shape, _) in listed["keys"].items()}
    assert (len(found), sum(tensor.numel() for tensor in network.state_dict().values())) == (973, listed["n_params"])


def test_real_size_adapter_names_and_shapes(golden):
    listed = golden("opensora_stdit3_xl2_keys").json["lora_r16_keys"]
    with torch.device("meta"):
        network = STDiT3()
    adapters.inject(network, AdapterSpec(rank=16), OpenSora.lora_target_modules, seed=0)
    trained = {name: list(p.shape) for name, p in network.named_parameters() if p.requires_grad}
    found = {f"base_model.model.{name.replace('.default', '')}": shape for name, shape in trained.items()}
    assert found == {name: shape for name, (shape, _) in listed.items()}
    assert len(found) == 336
