"""A clip in chunks of frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def chunk_bounds(latent_frames: int, batch: int = 1) -> list[tuple[int, int]]:
    """Chunks of ``batch`` latent frames, first and past-the-last; the first chunk takes what is left over."""
    rest = latent_frames % batch
    ends = list(range(min(batch + rest, latent_frames), latent_frames + 1, batch))
    return list(zip([0, *ends], ends, strict=False))


class Clock:
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
