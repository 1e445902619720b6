"""Caches of diffusers in a rollout: blocks are left out before the window, and all is as before afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.fakes import FakeDenoiser
from torch import Tensor

from vader.backbones.block_cache import BlockCache
from vader.errors import SpecError
from vader.protocols import Conditioning

LATENTS = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
EMBEDS = torch.randn(2, 1, 4, 32, generator=torch.Generator().manual_seed(1))
CONDITIONING = Conditioning({"encoder_hidden_states": EMBEDS[0]}, {"encoder_hidden_states": EMBEDS[1]})


@pytest.fixture(scope="module")
def denoiser() -> Any:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64}
    return WanTransformer3DModel(**sizes, num_layers=3).eval()


def predict(denoiser: Any) -> Any:
    def call(latents: Tensor, timestep: Tensor, branch: Any) -> Tensor:
        with torch.no_grad():
            return denoiser(latents, timestep, **branch, return_dict=False)[0]

    return call


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FirstBlockCacheConfig", {"threshold": 1e9}),
        (
            "MagCacheConfig",
            {"threshold": 1e9, "num_inference_steps": 6, "mag_ratios": [1.0] * 6, "retention_ratio": 0.2},
        ),
        (
            "PyramidAttentionBroadcastConfig",
            {"spatial_attention_block_skip_range": 3, "spatial_attention_timestep_skip_range": (0, 1000)},
        ),
    ],
)
def test_leaves_work_out_and_then_everything_is_as_before(denoiser: Any, name: str, options: dict[str, Any]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    call, cache = predict(denoiser), BlockCache(denoiser, name, options)
    first, times = (
        call(LATENTS, torch.tensor([900.0]), CONDITIONING.positive),
        [900.0, 890.0, 880.0, 870.0, 860.0, 850.0],
    )
    for _ in range(2):  # each rollout begins anew
        flops = []
        with cache(call, CONDITIONING) as cached:
            for time in times:
                with FlopCounterMode(display=False) as counter:
                    found = cached(LATENTS, torch.tensor([time]), CONDITIONING.positive)
                flops.append(counter.get_total_flops())
                if time == times[0]:
                    torch.testing.assert_close(found, first)
        assert min(flops) < max(flops) == flops[0]
        assert torch.equal(call(LATENTS, torch.tensor([900.0]), CONDITIONING.positive), first)


def test_branches_have_caches_of_their_own(denoiser: Any) -> None:
    call, time = predict(denoiser), torch.tensor([900.0])
    both = [CONDITIONING.positive, CONDITIONING.negative]
    plain = [call(LATENTS, time, branch) for branch in both]
    with BlockCache(denoiser, "FirstBlockCacheConfig", {"threshold": 1e9})(call, CONDITIONING) as cached:
        torch.testing.assert_close([cached(LATENTS, time, branch) for branch in both], plain)


def test_a_denoiser_without_caches_is_refused() -> None:
    with pytest.raises(SpecError, match=r"rollout\.cache: FakeDenoiser has no enable_cache"):
        BlockCache(FakeDenoiser(), "FirstBlockCacheConfig", {})


def test_an_unknown_option_is_refused(denoiser: Any) -> None:
    with pytest.raises(
        SpecError, match=r"rollout\.cache\.options: FirstBlockCacheConfig .* no option treshold\. Known: threshold"
    ):
        BlockCache(denoiser, "FirstBlockCacheConfig", {"treshold": 1})
