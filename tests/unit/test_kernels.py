"""Compiled blocks and backends of attention, on a tiny Wan: the same numbers, whatever is switched on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.fakes import FakeDenoiser
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from vader.backbones.kernels import blocks_of, choose_attention, compile_blocks
from vader.errors import SpecError
from vader.spec import AdapterSpec
from vader.weights import lora

pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # dynamo looks, and hides it
LATENTS = torch.randn(2, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
TEXT = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(1))


def wan() -> Any:
    """A Wan with an adapter that counts."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64}
    made = WanTransformer3DModel(**sizes, num_layers=3).eval()
    parameters = lora.inject(made, AdapterSpec(rank=2), ("to_q", "to_v"), 0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(0, 0.2)
    return made


def call(network: Any, rows: int = 2) -> Tensor:
    return network(LATENTS[:rows], torch.full((rows,), 500.0), TEXT[:rows], return_dict=False)[0]


def gradient(network: Any) -> list[Tensor]:
    return list(torch.autograd.grad(call(network).square().sum(), [p for p in network.parameters() if p.requires_grad]))


@pytest.fixture
def counter() -> Iterator[CompileCounterWithBackend]:
    """Counts what is compiled, and runs it as it is."""
    torch._dynamo.reset()
    yield CompileCounterWithBackend("eager")
    torch._dynamo.reset()


def test_compiled_blocks_give_the_same_numbers_and_share_what_is_compiled(counter: Any) -> None:
    plain, compiled = wan(), wan()
    compile_blocks(compiled, backend=counter)
    with torch.no_grad():
        torch.testing.assert_close(call(compiled), call(plain))
    assert counter.frame_count == 1, "three equal blocks are compiled once"
    torch.testing.assert_close(gradient(compiled), gradient(plain))
    assert list(dict(compiled.named_parameters())) == list(dict(plain.named_parameters()))


def test_compiled_blocks_survive_scales_switching_and_checkpointing(counter: Any) -> None:
    plain, compiled = wan(), wan()
    compile_blocks(compiled, backend=counter)

    def same() -> None:
        torch.testing.assert_close(gradient(compiled), gradient(plain))

    same()
    for scale in (0.5, 1.0):
        for network in (plain, compiled):
            lora.set_scale(network, scale)
        same()
    with torch.no_grad(), lora.switched_off(plain), lora.switched_off(compiled):
        torch.testing.assert_close(call(compiled), call(plain))
    made = counter.frame_count
    same()
    assert counter.frame_count == made, "what was compiled for a state is found again"
    for network in (plain, compiled):
        network.enable_gradient_checkpointing()
    same()


def test_blocks_are_found_in_a_router_too() -> None:
    assert len(blocks_of(nn.ModuleDict({"one": wan(), "other": wan()}))) == 6


def test_a_denoiser_without_repeated_blocks_is_refused() -> None:
    with pytest.raises(SpecError, match=r"train\.compile: FakeDenoiser does not say which of its blocks repeat"):
        compile_blocks(FakeDenoiser())


def backends(network: nn.Module) -> set[Any]:
    found = (getattr(module, "processor", None) for module in network.modules())
    return {str(getattr(each, "_attention_backend", None)) for each in found if each is not None}


def test_attention_is_set_on_every_processor() -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    network, active = wan(), _AttentionBackendRegistry.get_active_backend()[0]
    choose_attention(network, "sdpa")
    assert backends(network) == {"None"}
    choose_attention(network, "cudnn")
    assert backends(network) == {str(AttentionBackendName._NATIVE_CUDNN)}
    assert _AttentionBackendRegistry.get_active_backend()[0] == active, "other networks keep theirs"


def test_a_backend_that_is_not_installed_is_refused() -> None:
    with pytest.raises(SpecError, match=r"backbone\.options\.attention: 'flash' cannot be had: .* Use sdpa"):
        choose_attention(wan(), "flash")


def test_attention_without_backends_is_refused() -> None:
    with pytest.raises(SpecError, match=r"attention of FakeDenoiser takes no backend\. Use sdpa"):
        choose_attention(FakeDenoiser(), "cudnn")
