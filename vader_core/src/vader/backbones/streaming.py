"""A causal decoder as a chain of stages: chunk by chunk in time, each stage recomputed in backward.

The clip's latent frames are cut into chunks. A chunk goes through the stages in order; what a stage keeps of earlier
chunks (its context: the frames before the chunk that its convolution sees) is an explicit input and output. So

* nothing is held but what goes in and out of stages, and in backward the inside of one stage;
* a stage runs on a chunk only if a wanted frame depends on it: near the pixels that is a few frames, however long the
  clip is, and what is left out has neither an influence on the pixels nor a gradient;
* where the window of a :class:`vader.DecodePlan` ends, contexts come without gradient, and nothing is held for them
  (truncated as in ChopGrad's backpropagation through a causal cache); they are computed once.

With tiles, the stages from the first spatial upsampling on run on one part of the picture at a time, with as many
neighbouring cells as its pixels depend on, so that pixels and gradients are those of the whole.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from vader.protocols import DecodePlan

Flow = tuple[Tensor, ...]
"""What goes from stage to stage: the hidden state ``(b c f h w)``, then what later stages take up again."""

Context = tuple[Tensor, ...]
"""What a stage keeps of the chunks before; empty at the start."""

SMALL = 2**20
"""Bytes of a stage's input up to which its inside is held rather than recomputed: a few megabytes in all."""
EVERYTHING = -1
"""The depth of a stage that sees all earlier frames."""
_DTYPES = {"float32": None, "bf16": torch.bfloat16}


class Stage(nn.Module):
    """One link of the chain. It holds modules of the autoencoder, and no parameter of its own.

    Class attributes, or set in a constructor:
        depth: how many frames before its own an output frame depends on; :data:`EVERYTHING` for all.
        whole: it also depends on all frames of the chunk, such as by a norm over time.
        rate: frames out for a frame in; the clip's first frame always stays one.
        space: cells out for a cell in, in height and width.
        margin: neighbouring cells, counted after upsampling, that an output cell depends on at each side; None for all.
    """

    depth: int = 0
    whole: bool = False
    rate: int = 1
    space: int = 1
    margin: int | None = 0

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """One chunk.

        Args:
            flow: of the stage before.
            context: of the chunk before; empty if it was not computed, or does not matter.
            first: it is the clip's first chunk.

        Returns:
            The flow for the next stage, and the context for the next chunk.
        """
        raise NotImplementedError

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """The context alone, where the chunk's own output is not needed."""
        return ()


def chunk_bounds(latent_frames: int, batch: int = 1) -> list[tuple[int, int]]:
    """Chunks of ``batch`` latent frames, first and past-the-last; the first chunk takes what is left over."""
    rest = latent_frames % batch
    ends = list(range(min(batch + rest, latent_frames), latent_frames + 1, batch))
    return list(zip([0, *ends], ends, strict=False))


class _Clock:
    """Frames and chunks at a rate: ``rate`` frames a latent frame, the first of which is one frame."""

    def __init__(self, bounds: Sequence[tuple[int, int]], rate: int) -> None:
        self.bounds, self.rate = bounds, rate

    def start(self, chunk: int) -> int:
        """The first frame of a chunk."""
        latent = self.bounds[chunk][0]
        return latent and (latent - 1) * self.rate + 1

    def stop(self, chunk: int) -> int:
        """The frame after a chunk's last."""
        return (self.bounds[chunk][1] - 1) * self.rate + 1

    def chunk(self, frame: int) -> int:
        """The chunk of a frame."""
        latent = -(-frame // self.rate)
        return next(index for index, (_, stop) in enumerate(self.bounds) if latent < stop)

    def chunks(self, frames: Iterable[int]) -> set[int]:
        """The chunks of frames."""
        return {self.chunk(frame) for frame in frames}

    def whole(self, frames: Iterable[int]) -> set[int]:
        """All frames of these frames' chunks."""
        return {frame for index in self.chunks(frames) for frame in range(self.start(index), self.stop(index))}


class Chain:
    """The stages of one decoder, set up for the frames that are wanted.

    Args:
        stages: in order.
        bounds: of the chunks, in latent frames.
        wanted: indices of the frames, in any order.
        plan: how to decode.

    Raises:
        ValueError: the plan asks for tiles, and a stage from the first upsampling on depends on the whole picture.
    """

    def __init__(
        self, stages: Sequence[Stage], bounds: Sequence[tuple[int, int]], wanted: Sequence[int], plan: DecodePlan
    ) -> None:
        self.stages, self.bounds, self.wanted, self.plan = stages, bounds, list(wanted), plan
        rates = [1]
        for stage in stages:
            rates.append(rates[-1] * stage.rate)
        self._clock = _Clock(bounds, rates[-1])
        self._needed = self._reach(rates)
        self._dtype = _DTYPES[plan.precision]
        self._split = self._first_tiled() if plan.tiles > 1 else len(stages)

    def _reach(self, rates: list[int]) -> list[set[int]]:
        """The chunks whose tensors are needed before each stage, and after the last."""
        frames = set(self.wanted)
        needed = [self._clock.chunks(frames)]
        for stage, rate in zip(reversed(self.stages), reversed(rates[:-1]), strict=True):
            frames = {frame and 1 + (frame - 1) // stage.rate for frame in frames}
            if stage.depth == EVERYTHING:
                frames = set(range(max(frames) + 1))
            else:
                frames = {max(frame - back, 0) for frame in frames for back in range(stage.depth + 1)}
            clock = _Clock(self.bounds, rate)
            frames = clock.whole(frames) if stage.whole else frames
            needed.insert(0, clock.chunks(frames))
        return needed

    def _window(self) -> set[int]:
        """The chunks that carry gradient."""
        if self.plan.window is None:
            return set(range(len(self.bounds)))
        latents = {-(-frame // self._clock.rate) for frame in self.wanted}
        kept = {max(latent - back, 0) for latent in latents for back in range(self.plan.window)}
        return _Clock(self.bounds, 1).chunks(kept)

    def _first_tiled(self) -> int:
        split = next((index for index, stage in enumerate(self.stages) if stage.space > 1), len(self.stages))
        if any(stage.margin is None or stage.whole for stage in self.stages[split:]):
            raise ValueError("this decoder has layers that see the whole picture at once; expected decode_tiles: 1.")
        return split

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode.

        Args:
            latents: ``(b c f h w)``, as the decoder wants them. Those past the last chunk that is needed are not used.

        Returns:
            ``(b f c h w)`` float32, the wanted frames in their order.
        """
        dtype = self._dtype or latents.dtype
        runs = self._runs(self._window() if torch.is_grad_enabled() and latents.requires_grad else set())
        flows: dict[int, Flow] = {t: (latents[:, :, slice(*self.bounds[t])].to(dtype),) for t in self._needed[0]}
        contexts: list[Context] = [()] * len(self.stages)
        middle: dict[int, Flow] = {}
        for chunks, kept in runs:
            with torch.set_grad_enabled(kept):
                done, contexts = self._stream(0, self._split, {t: flows[t] for t in chunks}, contexts)
            middle |= done
        found = middle if self._split == len(self.stages) else self._tiled(runs, middle)
        return self._in_order(found)

    def _runs(self, window: set[int]) -> list[tuple[list[int], bool]]:
        """Needed chunks in order, in stretches that carry gradient or do not."""
        runs: list[tuple[list[int], bool]] = []
        for t in sorted(self._needed[0]):
            if not runs or runs[-1][1] != (t in window):
                runs.append(([], t in window))
            runs[-1][0].append(t)
        return runs

    def _stream(
        self, start: int, stop: int, flows: dict[int, Flow], contexts: list[Context]
    ) -> tuple[dict[int, Flow], list[Context]]:
        """Chunks, in order, through the stages ``start`` to ``stop - 1``. The caller owns grad mode."""
        contexts, done = list(contexts), {}
        for t in list(flows):
            flow, first = flows.pop(t), self.bounds[t][0] == 0
            for index in range(start, stop):
                arguments = (self.stages[index], flow, contexts[index], first)
                if t not in self._needed[index + 1]:
                    contexts[index] = _own(self._through(_carry, *arguments))
                    contexts[index + 1 : stop] = [()] * (stop - index - 1)
                    break
                flow, context = self._through(_forward, *arguments)
                contexts[index] = context if torch.is_grad_enabled() else _own(context)
            else:
                done[t] = self._pick(t, flow) if stop == len(self.stages) else flow
        return done, contexts

    def _pick(self, t: int, flow: Flow) -> Flow:
        """Of the last stage's output the wanted frames, ascending."""
        start = self._clock.start(t)
        assert flow[0].shape[2] == self._clock.stop(t) - start, (flow[0].shape, t)
        return (flow[0][:, :, [frame - start for frame in self._of(t)]],)

    def _of(self, t: int) -> list[int]:
        """The wanted frames of a chunk, ascending."""
        return [frame for frame in sorted(set(self.wanted)) if self._clock.chunk(frame) == t]

    def _through(self, function: Callable[..., Any], stage: Stage, flow: Flow, context: Context, first: bool) -> Any:
        arguments = (function, stage, flow, context, first, self._dtype)
        if not torch.is_grad_enabled() or sum(tensor.nbytes for tensor in (*flow, *context)) <= SMALL:
            return _apply(*arguments)
        return _recomputed(_apply, *arguments)

    def _tiled(self, runs: list[tuple[list[int], bool]], middle: dict[int, Flow]) -> dict[int, Flow]:
        """The stages that are left, one part of the picture after another."""
        margin, scale = 0, 1
        for stage in reversed(self.stages[self._split :]):
            margin, scale = -(-(margin + cast(int, stage.margin)) // stage.space), scale * stage.space
        height, width = next(iter(middle.values()))[0].shape[-2:]
        rows: list[dict[int, Flow]] = []
        for top, bottom in _parts(height, self.plan.tiles):
            row = [
                self._tile(runs, middle, _Crop(top, bottom, left, right, margin, scale))
                for left, right in _parts(width, self.plan.tiles)
            ]
            rows.append(_joined(row, -1))
        return _joined(rows, -2)

    def _tile(self, runs: list[tuple[list[int], bool]], middle: dict[int, Flow], crop: _Crop) -> dict[int, Flow]:
        found: dict[int, Flow] = {}
        contexts: list[Context] = [()] * len(self.stages)
        for chunks, kept in runs:
            flows = {t: middle[t] for t in chunks if t in middle}
            with torch.set_grad_enabled(kept):
                run = _recomputed if kept else _called
                done, contexts = run(self._cropped, flows, contexts, crop)
            found |= done
        return found

    def _cropped(
        self, flows: dict[int, Flow], contexts: list[Context], crop: _Crop
    ) -> tuple[dict[int, Flow], list[Context]]:
        inside = {t: tuple(map(crop.take, flow)) for t, flow in flows.items()}
        done, contexts = self._stream(self._split, len(self.stages), inside, contexts)
        return {t: (crop.trim(flow[0]),) for t, flow in done.items()}, contexts

    def _in_order(self, found: dict[int, Flow]) -> Tensor:
        frames = {frame: found[t][0][:, :, place] for t in found for place, frame in enumerate(self._of(t))}
        return torch.stack([frames[frame] for frame in self.wanted], dim=1).float()


class _Crop:
    """A part of the picture with the cells around it that its pixels depend on."""

    def __init__(self, top: int, bottom: int, left: int, right: int, margin: int, scale: int) -> None:
        self.top, self.left = max(top - margin, 0), max(left - margin, 0)
        self.bottom, self.right = bottom + margin, right + margin
        self.inside = [
            slice((start - begin) * scale, (stop - begin) * scale)
            for start, stop, begin in ((top, bottom, self.top), (left, right, self.left))
        ]

    def take(self, tensor: Tensor) -> Tensor:
        """``(... h w)`` cells with their neighbours."""
        return tensor[..., self.top : self.bottom, self.left : self.right]

    def trim(self, pixels: Tensor) -> Tensor:
        """``(... h w)`` pixels without those of the neighbours."""
        return pixels[..., self.inside[0], self.inside[1]]


def _parts(length: int, count: int) -> list[tuple[int, int]]:
    """A side in parts of about the same length; no more parts than cells."""
    count = min(count, length)
    edges = [index * length // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def _joined(parts: Sequence[dict[int, Flow]], dim: int) -> dict[int, Flow]:
    return {t: (torch.cat([part[t][0] for part in parts], dim),) for t in parts[0]}


def frame_by_frame(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function`` of ``(b c f h w)``, which sees each frame by itself; in backward one is made again at a time."""
    if not (torch.is_grad_enabled() and x.requires_grad) or x.nbytes <= SMALL:
        return function(x)
    return torch.cat([cast(Tensor, _recomputed(function, frame)) for frame in torch.split(x, 1, dim=2)], dim=2)


def through(stage: Stage, hidden: Tensor, plan: DecodePlan) -> Tensor:
    """A hidden state through one stage that keeps nothing, recomputed in backward."""
    dtype = _DTYPES[plan.precision]
    arguments = (_apply, _forward, stage, (hidden.to(dtype or hidden.dtype),), (), True, dtype)
    run = _recomputed if torch.is_grad_enabled() else _called
    return cast(Tensor, run(*arguments)[0][0]).float()


def _forward(stage: Stage, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
    return cast("tuple[Flow, Context]", stage(flow, context, first))


def _carry(stage: Stage, flow: Flow, context: Context, first: bool) -> Context:
    return stage.carry(flow, context, first)


def _apply(
    function: Callable[..., Any], stage: Stage, flow: Flow, context: Context, first: bool, dtype: torch.dtype | None
) -> Any:
    """A stage in its own precision, or with its weights in another for the time of the call."""
    return function(stage if dtype is None else _in_dtype(stage, dtype), flow, context, first)


M = TypeVar("M", bound=nn.Module)


def _in_dtype(module: M, dtype: torch.dtype) -> M:
    """The module with its weights in another dtype; the module itself stays as it is."""
    twin = copy.copy(module)
    weights = {name: None if each is None else each.to(dtype) for name, each in module._parameters.items()}
    parts = {name: None if each is None else _in_dtype(each, dtype) for name, each in module._modules.items()}
    vars(twin).update(_parameters=weights, _modules=parts)
    return twin


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it; its inside is made again in backward. Tensors are given one by one, so that calls may be nested."""
    leaves, structure = tree_flatten(arguments)

    def run(*given: Any) -> Any:
        return function(*tree_unflatten(given, structure))

    return checkpoint(run, *leaves, use_reentrant=False, preserve_rng_state=False)


def _own(context: Context) -> Context:
    """Contexts that keep no larger tensor alive."""
    return tuple(t.clone() if t.untyped_storage().nbytes() > t.nbytes else t for t in context)
