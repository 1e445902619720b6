"""Tiny decoders in the layout of TAEHV: against its own arithmetic, written out here; files that are something else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from vader.backbones.family import Grid
from vader.backbones.reward_decoder import TinyDecoder, hollow, load, outlined
from vader.backbones.streaming import recompute
from vader.errors import WeightsError
from vader.protocols import DecodePlan

WAN = Grid(time=4, time_offset=1, space=16, cell=8)
PUBLISHED = {  # file -> channels of the latents, grid, pixels of a last cell
    "taew2_1": (16, WAN, 1),
    "taew2_2": (48, Grid(time=4, time_offset=1, space=32, cell=16), 2),
    "taehv": (16, WAN, 1),
    "taehv1_5": (32, Grid(time=4, time_offset=1, space=32, cell=16), 2),
    "taecvx": (16, WAN, 1),
    "taeltx_2": (128, Grid(time=8, time_offset=1, space=32, cell=32), 4),
}


def weights(made: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Random ones, of a size that keeps signals alive."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator) / math.sqrt(max(tensor[0].numel(), 4))
        for name, tensor in made.state_dict().items()
    }


def theirs(state: dict[str, Tensor], latents: Tensor, patch: int, trim: int, wide: bool = False) -> Tensor:
    """All frames at once, layer by layer, as TAEHV's parallel form has it: ``(b c f h w) -> (b f 3 h w)``."""

    def conv(x: Tensor, name: str, **more: Any) -> Tensor:
        weight = state[f"decoder.{name}.weight"]
        return functional.conv2d(x, weight, state.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2, **more)

    batch = len(latents)
    x = latents.transpose(1, 2).flatten(0, 1)

    def remember(x: Tensor, name: str) -> Tensor:
        frames = x.unflatten(0, (batch, -1))
        both = torch.cat([x, torch.cat([torch.zeros_like(frames[:, :1]), frames[:, :-1]], 1).flatten(0, 1)], 1)
        if wide:
            h = conv(both, f"{name}.conv.0", groups=both.shape[1])
            return conv(functional.relu(conv(h, f"{name}.conv.1")), f"{name}.conv.3") + x
        h = functional.relu(conv(both, f"{name}.conv.0"))
        return functional.relu(conv(functional.relu(conv(h, f"{name}.conv.2")), f"{name}.conv.4") + x)

    def grow(x: Tensor, name: str) -> Tensor:
        grown = conv(x, f"{name}.conv")
        return grown.reshape(-1, x.shape[1], *x.shape[2:])

    if wide:
        x = conv(x, "0")
        for first in (1, 8, 15):
            for block in range(first, first + 3):
                x = remember(x, str(block))
            x = functional.pixel_shuffle(functional.relu(conv(x, str(first + 3))), 2)
            x = grow(x, str(first + 6))
        x = conv(x, "22")
    else:
        x = functional.relu(conv(torch.tanh(x / 3) * 3, "1"))
        for first in (3, 9, 15):
            for block in range(first, first + 3):
                x = remember(x, str(block))
            x = grow(functional.interpolate(x, scale_factor=2), str(first + 4))
            x = conv(x, str(first + 5))
        x = conv(functional.relu(x), "22")
    return functional.pixel_shuffle(x, patch).clamp(0, 1).unflatten(0, (batch, -1))[:, trim:]


def small(wide: bool = False, patch: int = 1) -> TinyDecoder:
    made = TinyDecoder((8, 6, 4, 4), 4, patch, (1, 2, 2), wide).requires_grad_(False).eval()
    made.load_state_dict(weights(made))
    return made.double()


@pytest.mark.parametrize(("wide", "patch"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("frames", [list(range(9)), [8], [5, 0]], ids=["all", "last", "two"])
def test_is_taehv(monkeypatch: pytest.MonkeyPatch, wide: bool, patch: int, frames: list[int]) -> None:
    monkeypatch.setattr(recompute, "SMALL", 0)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    made = small(wide, patch)
    z = torch.randn(2, 4, 3, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    expected = theirs(made.state_dict(), z, patch, 3, wide)
    assert expected.shape == (2, 9, 3, 24 * patch, 32 * patch)
    found = made.decode(z, frames, DecodePlan())
    torch.testing.assert_close(found, expected[:, frames], rtol=0, atol=1e-10)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found * weight).sum(), z)
    (wanted,) = torch.autograd.grad((expected[:, frames] * weight).sum(), z)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-10)


def test_plans() -> None:
    made = small().float()
    z = torch.randn(1, 4, 3, 16, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    whole = made.decode(z, [8], DecodePlan())
    torch.testing.assert_close(made.decode(z, [8], DecodePlan(window=1, tiles=2)), whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(made.decode(z, [8], DecodePlan(precision="bf16")), whole, rtol=0.05, atol=0.05)
    (gradient,) = torch.autograd.grad(made.decode(z, [8], DecodePlan(window=1)).sum(), z)
    assert gradient[:, :, :2].abs().max() == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts(name: str, tmp_path: Path) -> None:
    channels, grid, patch = PUBLISHED[name]
    made = hollow(channels, grid)
    state = {key: tensor.half() for key, tensor in weights(made).items()}
    torch.save({**state, "encoder.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / f"{name}.pth")
    save_file(state, tmp_path / f"{name}.safetensors")
    for ending in (".pth", ".safetensors"):
        read = load(str(tmp_path / name) + ending, channels, grid)
        assert (read.patch, read.rate) == (patch, grid.time)
        assert all(torch.equal(tensor, state[key].float()) for key, tensor in read.state_dict().items())
    assert outlined(str(tmp_path / f"{name}.pth"), channels, grid).state_dict().keys() == state.keys()
    assert next(outlined("hub:a/b:c.pth", channels, grid).parameters()).is_meta


def test_the_super_layout_and_more_frames_than_wanted(tmp_path: Path) -> None:
    made = TinyDecoder((512, 256, 128, 64), 48, 2, (2, 2, 2), True)
    state = weights(made)
    save_file(state, tmp_path / "taew2_2_super.safetensors")
    read = load(str(tmp_path / "taew2_2_super.safetensors"), *PUBLISHED["taew2_2"][:2])
    assert read.rates == (1, 2, 2)
    assert torch.equal(read.state_dict()["decoder.7.conv.weight"], state["decoder.7.conv.weight"][256:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state | {"decoder.1.weight": torch.zeros(8, 5, 3, 3)}, "channels of the latents: 5, expected 4"),
        (lambda state: state | {"decoder.22.weight": torch.zeros(12, 4, 3, 3)}, "pixels per latent cell: 16, expected"),
        (lambda state: {k: v for k, v in state.items() if k != "decoder.3.conv.0.bias"}, "1 missing"),
        (lambda state: state | {"decoder.30.weight": torch.zeros(1)}, "1 unexpected (decoder.30.weight)"),
        (lambda state: state | {"decoder.4.conv.0.weight": torch.zeros(8, 2, 3, 3)}, "1 misshapen"),
        (lambda state: state | {"vae.x": torch.zeros(1)}, "it holds 'vae.x'; expected decoder"),
        (lambda state: {}, "it holds nothing"),
        (lambda state: {"decoder.0.bias": torch.zeros(1)}, "it has no decoder.1.weight"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    file = tmp_path / "tiny.pth"
    torch.save(change(dict(small().float().state_dict())), file)
    with pytest.raises(WeightsError) as caught:
        load(str(file), 4, WAN)
    assert words in str(caught.value)
    assert "Set `reward_decoder` to the file" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [("nothing.pth", "no such file"), ("a.onnx", "no file of weights"), ("hub:owner/name", "names no file on the hub")],
)
def test_a_name_that_is_no_file_is_refused(said: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        load(said, 4, WAN)


def test_a_cell_that_no_decoder_makes_is_refused_though_the_file_is_missing() -> None:
    with pytest.raises(WeightsError, match=r"'hub:a/b:c.pth': .* multiple of 8 pixels .* this backbone 4. Drop"):
        outlined("hub:a/b:c.pth", 16, Grid(time=4, time_offset=1, space=8, cell=4))


def test_bytes_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    for name, content in (("a.safetensors", b"x" * 40), ("b.pth", b"x" * 40)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match="truncated or not"):
            load(str(tmp_path / name), 4, WAN)
    torch.save([1], tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="no tensors by name"):
        load(str(tmp_path / "c.pth"), 4, WAN)
