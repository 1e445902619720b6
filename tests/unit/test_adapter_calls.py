"""The adapter's own forward, and calls whose weights have the adapter in them: the same numbers but for rounding."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from vader.spec import AdapterSpec
from vader.weights import lora
from vader.weights.lora.layer import LeanLinear

TARGETS = ("q", "v")


class Denoiser(nn.Module):
    """Two adapted layers, one that is not."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.q, self.v, self.out = nn.Linear(6, 5, bias=bias), nn.Linear(5, 7, bias=bias), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.v(torch.tanh(self.q(x)))))


def adapted(dtype: torch.dtype = torch.float32, **spec: object) -> tuple[Denoiser, list[nn.Parameter]]:
    torch.manual_seed(0)
    denoiser = Denoiser().to(dtype)
    parameters = lora.inject(denoiser, AdapterSpec.model_validate({"rank": 2, "alpha": 3, **spec}), TARGETS, seed=1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return denoiser, parameters


def layers(denoiser: nn.Module) -> list[Linear]:
    return [module for module in denoiser.modules() if isinstance(module, Linear)]


def pefts_own(denoiser: nn.Module) -> None:
    for layer in layers(denoiser):
        layer.__class__ = Linear


def results(denoiser: nn.Module, parameters: list[nn.Parameter], x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    found = denoiser(x)
    return [found, *torch.autograd.grad(found.float().square().sum(), [x, *parameters])]


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6), (2, 3, 2, 6)])
def test_forward_and_gradients_are_pefts(shape: tuple[int, ...]) -> None:
    denoiser, parameters = adapted()
    assert all(type(layer) is LeanLinear for layer in layers(denoiser))
    x = torch.randn(shape)
    ours = results(denoiser, parameters, x)
    pefts_own(denoiser)
    for one, other in zip(ours, results(denoiser, parameters, x), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_gradients_equal_finite_differences() -> None:
    denoiser, parameters = adapted()
    denoiser.double()
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert all(type(layer) is LeanLinear for layer in layers(denoiser))
    assert torch.autograd.gradcheck(lambda x, *_: denoiser(x), (x, *parameters))


def test_types_are_those_of_peft() -> None:
    """Narrow weights under a float32 adapter, without autocast and with it."""
    denoiser, parameters = adapted(torch.bfloat16)
    x = torch.randn(2, 3, 6).bfloat16()
    plain = denoiser(x)
    with torch.autocast("cpu", torch.bfloat16):
        ours = results(denoiser, parameters, x)
    pefts_own(denoiser)
    torch.testing.assert_close(plain, denoiser(x), atol=0, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        theirs = results(denoiser, parameters, x)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.05)


def test_an_adapter_that_is_off_gives_the_base_bit_for_bit() -> None:
    denoiser, _ = adapted()
    torch.manual_seed(0)
    base, x = Denoiser(), torch.randn(2, 3, 6)
    lora.set_scale(denoiser, 0.0)
    assert torch.equal(denoiser(x), base(x))
    lora.set_scale(denoiser, 1.0)
    with lora.switched_off(denoiser):
        torch.testing.assert_close(denoiser(x), base(x))


def test_layers_with_dropout_stay_pefts() -> None:
    denoiser, _ = adapted(dropout=0.1)
    assert all(type(layer) is Linear for layer in layers(denoiser))


def test_merged_calls_are_the_same_and_leave_the_weights_as_they_were() -> None:
    denoiser, _ = adapted()
    x, before = torch.randn(2, 3, 6), {name: value.clone() for name, value in denoiser.state_dict().items()}
    expected = denoiser(x).detach()
    merged = lora.merged(lora.layers_of(denoiser))
    assert merged is not None
    downs = [layer.lora_A["default"].weight for layer in layers(denoiser)]
    with torch.no_grad(), merged.used():
        torch.testing.assert_close(denoiser(x), expected, atol=1e-6, rtol=1e-5)
        for weight in downs:
            weight.add_(1.0)  # the adapter itself has no part in the call
        torch.testing.assert_close(denoiser(x), expected, atol=1e-6, rtol=1e-5)
        for weight in downs:
            weight.sub_(1.0)
    with torch.no_grad(), pytest.raises(RuntimeError, match="shape"), merged.used():
        denoiser(torch.randn(2, 3, 9))
    after = denoiser.state_dict()
    assert after.keys() == before.keys()
    for name in ("q.base_layer.weight", "v.base_layer.weight", "out.weight"):
        assert torch.equal(after[name], before[name])
    torch.testing.assert_close(denoiser(x), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("why", ["narrow weights", "off", "dropout", "two devices"])
def test_nothing_is_merged_where_the_call_would_differ(why: str) -> None:
    narrow = torch.bfloat16 if why == "narrow weights" else torch.float32
    denoiser, _ = adapted(narrow, dropout=0.1 if why == "dropout" else 0.0)
    if why == "off":
        lora.set_scale(denoiser, 0.0)
    if why == "two devices":
        denoiser.v.to("meta")
    assert lora.merged(lora.layers_of(denoiser)) is None
