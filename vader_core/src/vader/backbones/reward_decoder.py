"""Tiny decoders that stand in for a family's autoencoder where rewards score.

Source: TAEHV (https://github.com/madebyollin/taehv, ``taehv.py``): the layout of its published files and its semantics,
the small and the "super" decoder alike. The code is our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vader.backbones.family import Grid
from vader.backbones.streaming import Chain, Context, Flow, Stage, chunk_bounds
from vader.errors import WeightsError
from vader.paths import user_path
from vader.protocols import DecodePlan
from vader.weights.compare import compare_shapes, shapes_of
from vader.weights.files import PICKLED, SAFETENSORS, hub_file, load_pickled, shown, unreadable

if TYPE_CHECKING:
    from vader.shapes import Frames, Latents

MODES = frozenset({"window", "precision", "tiles"})
"""What of a plan such a decoder can do: all of it."""
FIX = "Set `reward_decoder` to the file that github.com/madebyollin/taehv has for this model, such as taew2_1.pth."
_HUB = re.compile(r"hub:(?P<name>\w[\w.-]*/\w[\w.-]*):(?P<file>(?:\w[\w. -]*/)*\w[\w. -]*)")
_LEVELS = 3
_MEMORIES = 3
"""Blocks with a memory at each of the levels."""


class Squash(nn.Module):
    """Latents kept within 3."""

    def forward(self, x: Tensor) -> Tensor:
        """``(n c h w)``."""
        return torch.tanh(x / 3) * 3


class Memory(nn.Module):
    """A residual block that sees a frame and the one before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, *others = [nn.Conv2d(2 * width if i == 0 else width, width, 3, padding=1) for i in range(3)]
        self.conv = nn.Sequential(first, nn.ReLU(), others[0], nn.ReLU(), others[1])

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """``(n c h w)`` twice."""
        return torch.relu(self.conv(torch.cat([x, past], 1)) + x)


class WideMemory(nn.Module):
    """The same in the "super" decoder: a convolution by channel, then wide layers cell by cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, 7, padding=3, groups=2 * width, bias=False),
            nn.Conv2d(2 * width, 4 * width, 1),
            nn.ReLU(),
            nn.Conv2d(4 * width, width, 1, bias=False),
        )

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """``(n c h w)`` twice."""
        mixed: Tensor = self.conv(torch.cat([x, past], 1)) + x
        return mixed


class Grow(nn.Module):
    """``rate`` frames out of each."""

    def __init__(self, width: int, rate: int) -> None:
        super().__init__()
        self.rate = rate
        self.conv = nn.Conv2d(width, rate * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(n c h w) -> (n rate*c h w)``."""
        grown: Tensor = self.conv(x)
        return grown


class TinyDecoder(nn.Module):
    """Frames of latents, by a small network under the names of the published files.

    Args:
        widths: channels at the four levels.
        channels: of the latents.
        patch: pixels of a cell of the last layer, each side.
        rates: frames out for a frame in, at the three levels.
        wide: the "super" decoder.
    """

    def __init__(self, widths: Sequence[int], channels: int, patch: int, rates: Sequence[int], wide: bool) -> None:
        super().__init__()
        self.channels, self.patch, self.rates = channels, patch, tuple(rates)
        pixels = nn.Conv2d(widths[-1], 3 * patch**2, 3, padding=1)
        make = _wide_level if wide else _level
        levels = [layer for i in range(_LEVELS) for layer in make(widths[i], widths[i + 1], rates[i])]
        start: list[nn.Module] = [Squash(), nn.Conv2d(channels, widths[0], 3, padding=1), nn.ReLU()]
        if wide:
            start = [nn.Conv2d(channels, widths[0], 1, bias=False)]
        self.decoder = nn.Sequential(*start, *levels, *([] if wide else [nn.ReLU()]), pixels)

    @property
    def rate(self) -> int:
        """Frames for a latent frame."""
        rate = 1
        for each in self.rates:
            rate *= each
        return rate

    def stages(self) -> list[Stage]:
        """The chain that it is (:mod:`vader.backbones.streaming`)."""
        made: list[Stage] = []
        for layer in self.decoder:
            made.append(_KINDS.get(type(layer), Apart)(layer))
        return [*made, Pixels(self.patch, self.rate)]

    def decode(self, latents: Latents, frames: Sequence[int], plan: DecodePlan) -> Frames:
        """``(b c f h w)`` as the denoiser sees them -> ``(b f 3 h w)`` in [0, 1], the wanted frames in their order."""
        chain = Chain(self.stages(), chunk_bounds(latents.shape[2]), frames, plan)
        return chain(latents.to(next(self.parameters()).dtype))


def _level(width: int, after: int, rate: int) -> list[nn.Module]:
    blocks: list[nn.Module] = [Memory(width) for _ in range(_MEMORIES)]
    return [*blocks, nn.Upsample(scale_factor=2), Grow(width, rate), nn.Conv2d(width, after, 3, padding=1, bias=False)]


def _wide_level(width: int, after: int, rate: int) -> list[nn.Module]:
    blocks: list[nn.Module] = [WideMemory(width) for _ in range(_MEMORIES)]
    return [*blocks, nn.Conv2d(width, 4 * after, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2), Grow(after, rate)]


class Apart(Stage):
    """A layer that sees one frame at a time."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.margin = layer.kernel_size[0] // 2 if isinstance(layer, nn.Conv2d) else 0
        self.space = 2 if isinstance(layer, nn.Upsample | nn.PixelShuffle) else 1

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        frames = self.layer(flow[0].transpose(1, 2).flatten(0, 1))
        return (frames.reshape(len(flow[0]), -1, *frames.shape[1:]).transpose(1, 2),), ()


class Remember(Stage):
    """A block with a memory; before the first frame it is zero."""

    depth = 1
    margin = 3

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        x = flow[0]
        before = context[0] if context else torch.zeros_like(x[:, :, :1])
        past = torch.cat([before, x[:, :, :-1]], dim=2)
        found = self.block(*(each.transpose(1, 2).flatten(0, 1) for each in (x, past)))
        return (found.reshape(len(x), -1, *found.shape[1:]).transpose(1, 2),), self.carry(flow, context, first)

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """See :class:`Stage`."""
        return (flow[0][:, :, -1:],)


class Multiply(Stage):
    """More frames."""

    def __init__(self, layer: Grow) -> None:
        super().__init__()
        self.layer, self.rate = layer, layer.rate

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        x = flow[0]
        grown = self.layer(x.transpose(1, 2).flatten(0, 1))
        return (grown.reshape(len(x), -1, x.shape[1], *x.shape[3:]).transpose(1, 2),), ()


class Pixels(Stage):
    """Pixels of patches, clamped; of the first latent frame the last frame alone."""

    def __init__(self, patch: int, rate: int) -> None:
        super().__init__()
        self.space, self.drop = patch, rate - 1

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        frames = nn.functional.pixel_shuffle(flow[0].transpose(1, 2), self.space).transpose(1, 2).clamp(0, 1)
        return (frames[:, :, self.drop :] if first else frames,), ()


_KINDS: Mapping[type[nn.Module], Callable[[Any], Stage]] = {Memory: Remember, WideMemory: Remember, Grow: Multiply}


def load(said: str, channels: int, grid: Grid) -> TinyDecoder:
    """A published decoder.

    Args:
        said: its file, .pth or .safetensors, or ``hub:owner/name:file``.
        channels: of the backbone's latents.
        grid: of the backbone.

    Raises:
        WeightsError: it cannot be read, is no such decoder, or is one for other latents.
    """
    state = _decoder_of(_read(said), said)
    made = hollow(channels, grid, state, said)
    for index, layer in enumerate(made.decoder):
        name = f"decoder.{index}.conv.weight"
        if isinstance(layer, Grow) and name in state:  # of one that makes more frames the last count, as TAEHV has it
            state[name] = state[name][-len(layer.conv.weight) :]
    different = compare_shapes(shapes_of(state), shapes_of(made.state_dict()))
    if different:
        kinds = ("missing", different.missing), ("unexpected", different.unexpected), ("misshapen", different.reshaped)
        what = "; ".join(f"{len(names)} {kind}{shown(list(names))}" for kind, names in kinds if names)
        raise WeightsError(f"{said} is no decoder of TAEHV for this model: {what}. {FIX}")
    made.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return made.requires_grad_(False).eval()


def outlined(said: str, channels: int, grid: Grid) -> TinyDecoder:
    """The same on the meta device; a file that is not on this disk is taken for a small decoder."""
    path = None if _HUB.fullmatch(said) else user_path(said)
    state = _decoder_of(_read(said), said) if path is not None and path.is_file() else None
    with torch.device("meta"):
        return hollow(channels, grid, state, said).requires_grad_(False).eval()


def hollow(channels: int, grid: Grid, state: Mapping[str, Tensor] | None = None, said: str = "") -> TinyDecoder:
    """A decoder with random weights, for a backbone's latents.

    Args:
        channels: of the latents.
        grid: of the backbone.
        state: what a file holds, whose widths are taken over; None for those of the small decoder.
        said: the file, for errors.

    Raises:
        WeightsError: the file's decoder is for other latents, or there can be none for these.
    """
    if grid.cell % 8:
        made = f"a decoder of TAEHV makes a multiple of 8 pixels of a latent cell, this backbone {grid.cell}"
        raise WeightsError(f"reward_decoder {said!r}: {made}. Drop `reward_decoder`.")
    grown = grid.time.bit_length() - 1
    rates = [2 if level >= _LEVELS - grown else 1 for level in range(_LEVELS)]
    if state is None:
        return TinyDecoder((256, 128, 64, 64), channels, max(grid.cell // 8, 1), rates, False)
    wide = "decoder.1.conv.3.weight" in state
    names = [0, 4, 11, 18] if wide else [1, 8, 14, 20]
    try:
        widths = [len(state[f"decoder.{name}.weight"]) // (4 if wide and name else 1) for name in names]
        found = int(state[f"decoder.{names[0]}.weight"].shape[1])
        patch = round((len(state["decoder.22.weight"]) / 3) ** 0.5)
    except KeyError as error:
        raise WeightsError(f"{said} is no decoder of TAEHV: it has no {error.args[0]}. {FIX}") from error
    wanted = {"channels of the latents": (found, channels), "pixels per latent cell": (8 * patch, grid.cell)}
    wrong = [f"{what}: {seen}, expected {right}" for what, (seen, right) in wanted.items() if seen != right]
    if wrong:
        raise WeightsError(f"{said} does not fit this backbone ({'; '.join(wrong)}). {FIX}")
    return TinyDecoder(widths, channels, patch, rates, wide)


def _read(said: str) -> dict[str, Tensor]:
    hub = _HUB.fullmatch(said)
    if said.startswith("hub:") and hub is None:
        raise WeightsError(f"reward_decoder {said!r} names no file on the hub; expected hub:owner/name:file. {FIX}")
    path = hub_file(hub["name"], hub["file"]) if hub is not None else user_path(said)
    if path.suffix == SAFETENSORS:
        return _safetensors(path, said)
    if path.suffix not in PICKLED:
        raise WeightsError(f"reward_decoder {said!r} is no file of weights; expected .pth or .safetensors. {FIX}")
    state = load_pickled(path, said, FIX)
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise WeightsError(f"{said} holds no tensors by name; expected a state_dict. {FIX}")
    return state


def _safetensors(path: Path, said: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise unreadable(path, said, "a safetensors file", error, FIX) from error
    return state


def _decoder_of(state: Mapping[str, Tensor], said: str) -> dict[str, Tensor]:
    """The decoder's tensors of a file, which may hold an encoder besides and nothing else."""
    other = [name for name in state if not name.startswith(("decoder.", "encoder."))]
    if other or not state:
        held = f"{other[0]!r}" if other else "nothing"
        raise WeightsError(f"{said} is no decoder of TAEHV: it holds {held}; expected decoder.* and encoder.*. {FIX}")
    return {name: tensor for name, tensor in state.items() if name.startswith("decoder.")}
