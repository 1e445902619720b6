"""Frames: choice, range, and files that hold what was written."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from torch import Tensor

from vader.diffusion.frames import choose, fewest, from_signed, sketch, to_uint8, write_clip

RNG = random.Random(0)
COUNTS = range(1, 10)


def clip(frames: int = 4, height: int = 16, width: int = 24) -> Tensor:
    """Smooth colours that change from frame to frame, so that codecs keep them."""
    f, h, w = torch.meshgrid(*(torch.linspace(0, 1, n) for n in (frames, height, width)), indexing="ij")
    return torch.stack([f, h * 0.8 + 0.1, w * 0.8 + 0.1], dim=1)


def decoded(path: Path) -> tuple[np.ndarray, str]:
    """Frames of a video ``(f h w c)``, signed, and ffmpeg's line about its stream. imageio's reader leaks its pipes."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    stream = next(line for line in done.stderr.decode().splitlines() if "Video:" in line)
    size = re.search(r", (\d+)x(\d+)[, ]", stream)
    assert size is not None
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, int(size[2]), int(size[1]), 3).astype(int), stream


class TestChoose:
    @pytest.mark.parametrize("count", COUNTS)
    def test_all(self, count: int) -> None:
        assert choose("all", count, RNG) == list(range(count))

    @pytest.mark.parametrize("count", COUNTS)
    def test_alt_is_every_second_from_0(self, count: int) -> None:
        assert choose("alt", count, RNG) == list(range(0, count, 2))

    @pytest.mark.parametrize(
        ("count", "expected"),
        [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 2, 3]), (5, [0, 2, 4]), (8, [0, 4, 7]), (9, [0, 4, 8])],
    )
    def test_fml_is_first_middle_and_last_without_repeats(self, count: int, expected: list[int]) -> None:
        assert choose("fml", count, RNG) == expected

    @pytest.mark.parametrize("count", COUNTS)
    def test_index_is_the_given_one(self, count: int) -> None:
        assert [choose("index", count, RNG, i) for i in range(count)] == [[i] for i in range(count)]

    @pytest.mark.parametrize("index", [-1, 4, None])
    def test_index_out_of_range_is_a_broken_promise(self, index: int | None) -> None:
        with pytest.raises(AssertionError):
            choose("index", 4, RNG, index)

    @pytest.mark.parametrize("count", COUNTS)
    def test_random_reaches_every_frame_one_at_a_time(self, count: int) -> None:
        rng = random.Random(0)
        drawn = [choose("random", count, rng) for _ in range(200)]
        assert {len(one) for one in drawn} == {1}
        assert {one[0] for one in drawn} == set(range(count))

    def test_random_is_decided_by_its_generator_and_nothing_else_uses_it(self) -> None:
        assert choose("random", 1000, random.Random(4)) == choose("random", 1000, random.Random(4))
        before = RNG.getstate()
        for mode in ("all", "alt", "fml"):
            choose(mode, 9, RNG)  # type: ignore[arg-type]
        choose("index", 9, RNG, 2)
        assert RNG.getstate() == before

    @pytest.mark.parametrize("count", COUNTS)
    @pytest.mark.parametrize("mode", ["random", "index", "fml", "all", "alt"])
    def test_fewest_is_how_many_there_are(self, count: int, mode: Any) -> None:
        assert fewest(mode, count) == len(choose(mode, count, RNG, 0))


class TestRange:
    def test_signed_becomes_zero_to_one(self) -> None:
        assert from_signed(torch.tensor([-1.0, 0.0, 0.5, 1.0])).tolist() == [0, 0.5, 0.75, 1]

    def test_is_clamped_and_a_clamped_pixel_has_no_gradient(self) -> None:
        pixels = torch.tensor([-3.0, -0.5, 0.5, 1.5], requires_grad=True)
        frames = from_signed(pixels)
        frames.sum().backward()
        assert frames.tolist() == [0, 0.25, 0.75, 1]
        assert pixels.grad is not None
        assert pixels.grad.tolist() == [0, 0.5, 0.5, 0]

    def test_bytes_are_rounded_clamped_and_channels_last(self) -> None:
        frames = torch.tensor([-0.2, 0.5 / 255, 0.51 / 255, 1.4 / 255, 0.999, 1.2]).repeat(2, 3, 1, 1)
        found = to_uint8(frames)
        assert (found.dtype, found.shape) == (np.uint8, (2, 1, 6, 3))
        assert found[1, 0, :, 2].tolist() == [0, 0, 1, 1, 255, 255]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_bytes_come_from_any_float_with_gradient(self, dtype: torch.dtype) -> None:
        frames = torch.full((1, 3, 2, 2), 0.5, dtype=dtype, requires_grad=True)
        assert (to_uint8(frames) == 128).all()


class TestWriteClip:
    def test_mp4_holds_the_frames(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "a.mp4", clip(), fps=8)
        found, stream = decoded(tmp_path / "a.mp4")
        assert found.shape == (4, 16, 24, 3)
        assert np.abs(found - to_uint8(clip())).mean() < 6
        assert " 8 fps" in stream

    def test_mp4_is_h264_in_the_pixel_format_that_browsers_play(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "a.mp4", clip(), fps=8)
        _, stream = decoded(tmp_path / "a.mp4")
        assert "Video: h264" in stream
        assert " yuv420p" in stream

    @pytest.mark.parametrize(("height", "width"), [(15, 24), (16, 23), (9, 11)])
    def test_mp4_of_odd_size_is_padded_by_repeating_its_edge(self, tmp_path: Path, height: int, width: int) -> None:
        frames = clip(height=height, width=width)
        write_clip(tmp_path / "a.mp4", frames, fps=8)
        found, _ = decoded(tmp_path / "a.mp4")
        assert found.shape == (4, height + height % 2, width + width % 2, 3)
        assert np.abs(found[:, :height, :width] - to_uint8(frames)).mean() < 8
        assert np.abs(found[:, -1] - found[:, -2]).mean() < 24
        assert np.abs(found[:, :, -1] - found[:, :, -2]).mean() < 24

    def test_gif_holds_the_frames_and_loops(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "a.gif", clip(height=9, width=11), fps=8)
        found = iio.imread(tmp_path / "a.gif").astype(int)
        assert found.shape == (4, 9, 11, 3)
        assert np.abs(found - to_uint8(clip(height=9, width=11))).mean() < 12
        meta = iio.immeta(tmp_path / "a.gif")
        assert (meta["loop"], meta["duration"]) == (0, pytest.approx(125, abs=10))

    def test_png_is_a_strip_of_the_exact_frames(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "a.png", clip(), fps=8)
        assert np.array_equal(iio.imread(tmp_path / "a.png"), np.concatenate(list(to_uint8(clip())), axis=1))

    def test_scale_repeats_pixels(self, tmp_path: Path) -> None:
        write_clip(tmp_path / "a.png", clip(1, 4, 5), fps=8, scale=3)
        found = iio.imread(tmp_path / "a.png")
        assert found.shape == (12, 15, 3)
        assert np.array_equal(found[::3, ::3], to_uint8(clip(1, 4, 5))[0])
        assert np.array_equal(found[2::3, 2::3], found[::3, ::3])

    @pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png", "A.MP4"])
    def test_one_frame_is_enough_and_nothing_else_is_left(self, tmp_path: Path, name: str) -> None:
        write_clip(tmp_path / name, clip(1), fps=8)
        assert [p.name for p in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).stat().st_size > 50

    def test_an_unknown_ending_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"'a\.avi'; expected a name ending in \.mp4, \.gif or \.png"):
            write_clip(tmp_path / "a.avi", clip(), fps=8)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png"])
    def test_a_failed_write_leaves_the_earlier_file_and_no_other(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_clip(tmp_path / name, clip(), fps=8)
        before = (tmp_path / name).read_bytes()

        def fails(path: Path, *_: Any, **__: Any) -> None:
            Path(path).write_bytes(b"half")
            raise OSError("No space left on device")

        monkeypatch.setattr(iio, "imwrite", fails)
        with pytest.raises(OSError, match="No space"):
            write_clip(tmp_path / name, clip(2), fps=8)
        assert (tmp_path / name).read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_sketch_holds_mean_colours_of_frames_evenly_apart() -> None:
    clip = torch.zeros(7, 3, 16, 24)
    clip[4, 0, :8, :12] = 1.0
    drawn = np.frombuffer(sketch(clip), dtype=np.uint8).reshape(4, 8, 8, 3)
    assert drawn[2, :4, :4, 0].min() == 255, "frame 4 of 0, 2, 4, 6"
    assert drawn.sum() == 255 * 16
    assert len(sketch(clip[:2])) == 2 * 8 * 8 * 3
