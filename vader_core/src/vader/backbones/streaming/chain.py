"""The stages of one decoder, set up for the frames that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from vader.backbones.streaming.chunks import Clock
from vader.backbones.streaming.recompute import DTYPES, apply, called, carry, forward, recomputed, small
from vader.backbones.streaming.stage import EVERYTHING, Context, Flow, Stage
from vader.backbones.streaming.tiles import Crop, joined, parts
from vader.protocols import DecodePlan


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
        self._clock = Clock(bounds, rates[-1])
        self._needed = self._reach(rates)
        self._dtype = DTYPES[plan.precision]
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
            clock = Clock(self.bounds, rate)
            frames = clock.whole(frames) if stage.whole else frames
            needed.insert(0, clock.chunks(frames))
        return needed

    def _window(self) -> set[int]:
        """The chunks that carry gradient."""
        if self.plan.window is None:
            return set(range(len(self.bounds)))
        latents = {-(-frame // self._clock.rate) for frame in self.wanted}
        kept = {max(latent - back, 0) for latent in latents for back in range(self.plan.window)}
        return Clock(self.bounds, 1).chunks(kept)

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
                    contexts[index] = _own(self._through(carry, *arguments))
                    contexts[index + 1 : stop] = [()] * (stop - index - 1)
                    break
                flow, context = self._through(forward, *arguments)
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
        if not torch.is_grad_enabled() or small(*flow, *context):
            return apply(*arguments)
        return recomputed(apply, *arguments)

    def _tiled(self, runs: list[tuple[list[int], bool]], middle: dict[int, Flow]) -> dict[int, Flow]:
        """The stages that are left, one part of the picture after another."""
        margin, scale = 0, 1
        for stage in reversed(self.stages[self._split :]):
            margin, scale = -(-(margin + cast(int, stage.margin)) // stage.space), scale * stage.space
        height, width = next(iter(middle.values()))[0].shape[-2:]
        rows: list[dict[int, Flow]] = []
        for top, bottom in parts(height, self.plan.tiles):
            row = [
                self._tile(runs, middle, Crop(top, bottom, left, right, margin, scale))
                for left, right in parts(width, self.plan.tiles)
            ]
            rows.append(joined(row, -1))
        return joined(rows, -2)

    def _tile(self, runs: list[tuple[list[int], bool]], middle: dict[int, Flow], crop: Crop) -> dict[int, Flow]:
        found: dict[int, Flow] = {}
        contexts: list[Context] = [()] * len(self.stages)
        for chunks, kept in runs:
            flows = {t: middle[t] for t in chunks if t in middle}
            with torch.set_grad_enabled(kept):
                run = recomputed if kept else called
                done, contexts = run(self._cropped, flows, contexts, crop)
            found |= done
        return found

    def _cropped(
        self, flows: dict[int, Flow], contexts: list[Context], crop: Crop
    ) -> tuple[dict[int, Flow], list[Context]]:
        inside = {t: tuple(map(crop.take, flow)) for t, flow in flows.items()}
        done, contexts = self._stream(self._split, len(self.stages), inside, contexts)
        return {t: (crop.trim(flow[0]),) for t, flow in done.items()}, contexts

    def _in_order(self, found: dict[int, Flow]) -> Tensor:
        frames = {frame: found[t][0][:, :, place] for t in found for place, frame in enumerate(self._of(t))}
        return torch.stack([frames[frame] for frame in self.wanted], dim=1).float()


def _own(context: Context) -> Context:
    """Contexts that keep no larger tensor alive."""
    return tuple(t.clone() if t.untyped_storage().nbytes() > t.nbytes else t for t in context)
