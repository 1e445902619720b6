"""The norms of autoencoders in quicker operations: the same numbers and gradients as diffusers' own."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import HunyuanVideo15RMS_norm
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from torch import nn

from vader.backbones.autoencoders.norms import make_lean


@pytest.mark.parametrize("kind", [WanRMS_norm, HunyuanVideo15RMS_norm])
@pytest.mark.parametrize("options", [{"images": False}, {"bias": True}, {"channel_first": False}])
@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)]
)
def test_numbers_and_gradients_are_those_of_diffusers(
    kind: type[nn.Module], options: dict[str, bool], dtype: torch.dtype, near: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = kind(6, **options)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    plain.to(dtype)
    lean = nn.Sequential(copy.deepcopy(plain))
    make_lean(lean)
    make_lean(lean)
    assert isinstance(lean[0], kind)
    assert type(lean[0]).forward is not kind.forward
    shape = {"images": (2, 6, 3, 4, 5), "bias": (2, 6, 4, 5), "channel_first": (2, 4, 5, 6)}[next(iter(options))]
    x, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    found = []
    for norm in (plain, lean):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        assert out.dtype == dtype
        out.backward(upstream)
        found.append((out.detach(), leaf.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=near, atol=near)


def test_nothing_at_all_has_a_norm_and_a_gradient() -> None:
    norm = WanRMS_norm(4, images=False)
    make_lean(norm)
    leaf = torch.zeros(1, 4, 1, 2, 2, requires_grad=True)
    out = norm(leaf)
    out.sum().backward()
    assert torch.equal(out, torch.zeros_like(out))
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
