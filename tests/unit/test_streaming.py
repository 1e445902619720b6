"""Decoders of causal autoencoders stage by stage, against diffusers' own ``decode``: pixels, gradients, bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLHunyuanVideo15, AutoencoderKLWan
from torch import Tensor

from vader.backbones.autoencoders import CHAINS, TILED
from vader.backbones.streaming import Chain, chunk_bounds, recompute
from vader.estimation.fake_device import Machine
from vader.estimation.memory_tracker import LiveBytes
from vader.protocols import DecodePlan

WAN = {"base_dim": 8, "num_res_blocks": 1, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
KINDS: dict[str, tuple[Callable[[], Any], int]] = {
    "wan 2.1": (lambda: AutoencoderKLWan(**WAN), 1),
    "wan 2.2": (lambda: AutoencoderKLWan(**WAN, is_residual=True, patch_size=2, in_channels=12, out_channels=12), 1),
    "cogvideox": (
        lambda: AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
        ),
        2,
    ),
    "hunyuanvideo 1.5": (
        lambda: AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(8, 16, 16, 16, 16), layers_per_block=1
        ),
        1,
    ),
}
SOME_KINDS = [pytest.param(name, marks=[] if name == "wan 2.2" else [pytest.mark.slow]) for name in KINDS]
"""Of tests of more than that all are exact."""
LATENTS = 5
LAST = 4 * (LATENTS - 1)


@pytest.fixture(scope="module")
def autoencoders() -> dict[str, Any]:
    """Tiny ones in float32, with weights and biases far from their zeros and ones."""
    made = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, (make, _) in KINDS.items():
            made[name] = vae = make().eval().requires_grad_(False)
            for parameter in vae.parameters():
                parameter.data += torch.randn_like(parameter) * 0.02
    return made


@pytest.fixture
def doubles(autoencoders: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The same in float64, so that rounding hides nothing; casts to float32 are to float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    return {name: copy.deepcopy(vae).double() for name, vae in autoencoders.items()}


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage is recomputed, as at real size."""
    monkeypatch.setattr(recompute, "SMALL", 0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def start(height: int = 3, width: int = 4, latents: int = LATENTS, dtype: torch.dtype = torch.float64) -> Tensor:
    return noise(1, 4, latents, height, width).to(dtype).requires_grad_()


def decode(vae: Any, batch: int, z: Tensor, frames: list[int], **plan: Any) -> Tensor:
    """``(b f c h w)``."""
    bounds = chunk_bounds(z.shape[2], batch)
    return Chain(CHAINS[type(vae).__name__](vae), bounds, frames, DecodePlan(**plan))(z)


def own(vae: Any, z: Tensor, frames: list[int]) -> Tensor:
    return vae.decode(z, return_dict=False)[0][:, :, frames].transpose(1, 2)


def gradient(pixels: Tensor, z: Tensor) -> Tensor:
    (found,) = torch.autograd.grad((pixels * noise(*pixels.shape, seed=1)).sum(), z)
    return found


def same_gradient(found: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.detach().abs().max()))


SOME = [LAST, 2, 7]


@pytest.mark.parametrize(
    ("name", "frames"),
    [("wan 2.1", [0]), ("wan 2.1", [LAST]), ("wan 2.1", list(range(LAST + 1))), *((name, SOME) for name in KINDS)],
)
def test_is_exact(doubles: dict[str, Any], name: str, frames: list[int]) -> None:
    vae, z = doubles[name], start()
    expected, found = own(vae, z, frames), decode(vae, KINDS[name][1], z, frames)
    same(found, expected)
    same(gradient(found, z), gradient(expected, z))
    with torch.no_grad():
        same(decode(vae, KINDS[name][1], z, frames), expected)


@pytest.mark.parametrize("name", SOME_KINDS)
def test_is_exact_in_float32(autoencoders: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, z = autoencoders[name], start(dtype=torch.float32)
    expected, found = own(vae, z, [LAST, 3]), decode(vae, KINDS[name][1], z, [LAST, 3])
    same(gradient(found, z), gradient(expected, z), 1e-5)
    monkeypatch.setattr(recompute, "SMALL", 2**20)
    held = decode(vae, KINDS[name][1], z, [LAST, 3])
    same(held, expected, 1e-6)
    tolerance = 3e-6 if name == "hunyuanvideo 1.5" else 1e-6  # its attention has the mask of diffusers in another order
    same(gradient(held, z), gradient(own(vae, z, [LAST, 3]), z), tolerance)


def cached(vae: Any, z: Tensor, kept: set[int]) -> Tensor:
    """diffusers' own chunks with its own cache, without gradient in the chunks that are not kept."""
    wan, cache, parts = isinstance(vae, AutoencoderKLWan), None, []
    vae_map: list[Any] = [None] * 200
    for chunk, (first, stop) in enumerate(chunk_bounds(z.shape[2], 1 if wan else 2)):
        with nullcontext() if chunk in kept else torch.no_grad():
            x = z[:, :, first:stop]
            if wan:
                part = vae.decoder(vae.post_quant_conv(x), feat_cache=vae_map, feat_idx=[0], first_chunk=chunk == 0)
            else:
                part, cache = vae.decoder(x, conv_cache=cache)
            parts.append(part)
    return torch.cat(parts, dim=2).transpose(1, 2)


@pytest.mark.parametrize(
    ("name", "frames", "window", "kept"),
    [
        ("wan 2.1", [LAST], 1, {4}),
        ("wan 2.1", [LAST - 4], 2, {2, 3}),
        ("wan 2.1", [LAST, 3], 2, {0, 1, 3, 4}),
        ("cogvideox", [LAST], 1, {1}),  # chunks of 3 and 2 latent frames
        ("cogvideox", [LAST], 3, {0, 1}),
    ],
)
def test_a_window_is_the_cache_cut_before_it(
    doubles: dict[str, Any], name: str, frames: list[int], window: int, kept: set[int]
) -> None:
    vae, z = doubles[name], start()
    expected, found = cached(vae, z, kept)[:, frames], decode(vae, KINDS[name][1], z, frames, window=window)
    expected = expected.clamp(-1, 1) if name == "wan 2.1" else expected
    same(found, expected)
    same(found, own(vae, z, frames))
    same(gradient(found, z), gradient(expected, z))


@pytest.mark.parametrize("name", SOME_KINDS)
def test_a_window_over_all_is_exact_and_a_narrow_one_ends(doubles: dict[str, Any], name: str) -> None:
    vae, z, batch = doubles[name], start(), KINDS[name][1]
    same(gradient(decode(vae, batch, z, [LAST], window=LATENTS), z), gradient(decode(vae, batch, z, [LAST]), z))
    narrow = gradient(decode(vae, batch, z, [LAST], window=1), z)
    assert narrow[:, :, :-batch].abs().max() == 0
    assert narrow[:, :, -batch:].abs().max() > 0


@pytest.mark.parametrize(("name", "window"), [("wan 2.1", None), ("wan 2.1", 1), ("wan 2.2", 2)])
def test_tiles_are_exact(doubles: dict[str, Any], name: str, window: int | None) -> None:
    vae, z = doubles[name], start(16, 4, latents=2)
    whole, tiled = (decode(vae, 1, z, [4, 0], window=window, tiles=tiles) for tiles in (1, 2))
    same(tiled, whole)
    same(gradient(tiled, z), gradient(whole, z))


def test_more_tiles_than_cells_are_as_many_as_cells(autoencoders: dict[str, Any]) -> None:
    z = start(2, 2, latents=1, dtype=torch.float32)
    assert decode(autoencoders["wan 2.1"], 1, z, [0], tiles=5).shape == (1, 1, 3, 16, 16)


def test_tiles_of_a_decoder_that_looks_everywhere_are_refused(autoencoders: dict[str, Any]) -> None:
    assert "AutoencoderKLCogVideoX" not in TILED
    with pytest.raises(ValueError, match="expected decode_tiles: 1"):
        decode(autoencoders["cogvideox"], 2, start(dtype=torch.float32), [0], tiles=2)


@pytest.mark.parametrize("name", SOME_KINDS)
def test_bf16_is_near_and_leaves_the_weights(autoencoders: dict[str, Any], name: str) -> None:
    vae, z, batch = autoencoders[name], start(dtype=torch.float32), KINDS[name][1]
    found = decode(vae, batch, z, [LAST], precision="bf16")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, decode(vae, batch, z, [LAST]), rtol=0.05, atol=0.05)
    similar = torch.nn.functional.cosine_similarity(
        gradient(found, z).flatten(), gradient(decode(vae, batch, z, [LAST]), z).flatten(), dim=0
    )
    assert similar > 0.99
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32}


def test_gradient_against_finite_differences(doubles: dict[str, Any]) -> None:
    vae, z, weight = doubles["wan 2.1"], start(2, 2, latents=3), noise(1, 2, 3, 16, 16, seed=1).double()
    direction = noise(*z.shape, seed=2).double()

    def value(x: Tensor) -> Tensor:
        return (decode(vae, 1, x, [8, 1]) * weight).sum()

    (found,) = torch.autograd.grad(value(z), z)
    with torch.no_grad():
        measured = (value(z + 1e-5 * direction) - value(z - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((found * direction).sum(), measured, rtol=1e-6, atol=0)


def calls(vae: Any) -> Iterator[list[int]]:
    """Counts the chunks that reach the middle, and the pixels."""
    seen = [0, 0]

    def count(place: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            seen[place] += 1

        return hook

    hooks = [
        vae.decoder.mid_block.attentions[0].register_forward_pre_hook(count(0)),
        vae.decoder.norm_out.register_forward_pre_hook(count(1)),
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def test_what_carries_no_gradient_is_computed_once_and_what_no_frame_depends_on_never(
    autoencoders: dict[str, Any],
) -> None:
    vae, z = autoencoders["wan 2.1"], start(2, 2, dtype=torch.float32)
    for seen in calls(vae):
        pixels = decode(vae, 1, z, [LAST], window=1)
        assert seen == [5, 4], "every latent frame in the middle, the four frames of the last at the pixels"
        gradient(pixels, z)
        assert seen[0] == 6, "the window alone is made again"


def peak(vae: Any, latents: int, side: int = 16, **plan: Any) -> int:
    """Live bytes of decoding the last frame and of backward, on tensors without bytes."""
    machine, live, hollow = Machine(torch.device("cpu")), LiveBytes(), copy.deepcopy(vae)
    machine.dress(hollow, torch.device("cpu"))
    with machine.running(), live:
        z = torch.randn(1, 4, latents, side, side).requires_grad_()
        frames = [4 * (latents - 1)]
        pixels = own(hollow, z, frames) if plan == {"own": True} else decode(hollow, 1, z, frames, **plan)
        pixels.sum().backward()
    return live.account().peak.total


@pytest.mark.slow
def test_memory_of_a_window_does_not_grow_with_the_clip(autoencoders: dict[str, Any]) -> None:
    vae = autoencoders["wan 2.1"]
    short, long = peak(vae, 6, window=2), peak(vae, 12, window=2)
    assert long < 1.05 * short
    assert peak(vae, 6, window=1) < short


@pytest.mark.slow
def test_exact_memory_hardly_grows_once_gradient_reaches_no_further(autoencoders: dict[str, Any]) -> None:
    vae = autoencoders["wan 2.1"]
    nine, many = peak(vae, 9), peak(vae, 16)
    assert nine < 0.4 * peak(vae, 9, own=True)
    assert many < 1.2 * nine


@pytest.mark.slow
def test_tiles_take_less(autoencoders: dict[str, Any]) -> None:
    vae = autoencoders["wan 2.1"]
    assert peak(vae, 2, side=48, tiles=2) < 0.6 * peak(vae, 2, side=48)
