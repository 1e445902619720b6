"""A clip's history in the report, and as a file."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from vader.diffusion.frames import write_clip
from vader.errors import RunFolderError, SpecError
from vader.report import write_report
from vader.report.history import MOST, strips, write_history
from vader.report.reading import read_run
from vader.runs.joining import grid

GREYS = (0.2, 0.5, 0.8)


def make_run(folder: Path, greys: dict[int, float], clips: int = 2) -> Path:
    """Validations by step, whose clips are of one grey."""
    for step, grey in greys.items():
        samples = folder / "samples" / f"step-{step:06d}"
        samples.mkdir(parents=True)
        rows = []
        for index in range(clips + 1):
            file = f"clip-{index:03d}.mp4" if index < clips else None
            if file:
                write_clip(samples / file, torch.full((3, 3, 16, 16), grey), 8)
            rows.append({"index": index, "prompt": "a <b>", "seed": index, "scores": {"s": grey}, "file": file})
        (samples / "validation.json").write_text(json.dumps({"step": step, "clips": rows}))
    return folder


def decoded(path: Path, height: int, width: int) -> np.ndarray:
    """Frames ``(f h w 3)`` of a video of that size."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert f"{width}x{height}" in done.stderr.decode()
    return np.frombuffer(done.stdout, dtype=np.uint8).reshape(-1, height, width, 3)


def test_the_page_has_a_row_for_each_clip(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dict(zip((0, 10, 20), GREYS, strict=True)))
    page = write_report(run).read_text(encoding="utf-8")
    assert re.findall(r'download="([^"]+)"', page) == ["run-clip-000.mp4", "run-clip-001.mp4"]
    row = page.split('class="card history"')[1]
    assert re.findall(r'class="label">([^<]+)<', row)[:6] == ["step 0", "step 10", "step 20", "0.20", "0.50", "0.80"]
    video = re.search(r'src="data:video/mp4;base64,([^"]+)"', row)
    assert video is not None
    (tmp_path / "row.mp4").write_bytes(base64.b64decode(video[1]))
    frames = decoded(tmp_path / "row.mp4", 16, 48)
    assert len(frames) == 3
    for place, grey in enumerate(GREYS):
        assert abs(frames[:, :, place * 16 + 4 : place * 16 + 12].mean() / 255 - grey) < 0.03


def test_a_page_that_is_written_again_and_again_has_none(tmp_path: Path) -> None:
    run = make_run(tmp_path, {0: 0.2, 10: 0.5, 20: 0.8})
    assert "Clips over the run" not in write_report(run, live=True).read_text(encoding="utf-8")


def test_wide_clips_are_made_smaller(tmp_path: Path) -> None:
    for index in range(4):
        write_clip(tmp_path / f"{index}.mp4", torch.zeros(1, 3, 32, 768), 8)
    (tmp_path / "row.mp4").write_bytes(grid([[tmp_path / f"{index}.mp4" for index in range(4)]], ".mp4"))
    assert decoded(tmp_path / "row.mp4", 22, 2048).shape[0] == 1


def test_two_validations_are_a_pair_and_no_history(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path, {0: 0.2, 10: 0.5})).read_text(encoding="utf-8")
    assert "Clips over the run" not in page
    assert page.count("<video") == 4


def test_clips_that_cannot_be_joined_cost_their_section_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path, {0: 0.2, 10: 0.5, 20: 0.8})
    (run / "samples" / "step-000010" / "clip-000.mp4").write_bytes(b"torn")
    page = write_report(run).read_text(encoding="utf-8")
    assert "The histories cannot be shown: RunFolderError: clips cannot be joined" in page
    assert page.count("<video") == 4


def test_many_validations_are_thinned(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, dict.fromkeys(range(0, 110, 10), 0.5), clips=1))
    (moments,) = strips(run)
    steps = [moment.step for moment in moments]
    assert len(steps) == MOST
    assert (steps[0], steps[-1]) == (0, 100)


@pytest.mark.parametrize("name", ["all.gif", "all.mp4"])
def test_one_file_of_all(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run", dict(zip((0, 10, 20), GREYS, strict=True)))
    frames = decoded(write_history(run, tmp_path / name), 32, 48)  # a row a clip, a column a validation
    greys = frames[0].mean(axis=(0, 2)).reshape(3, 16)[:, 4:12].mean(axis=1) / 255
    assert greys == pytest.approx(GREYS, abs=0.03)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path, {0: 0.2})
    with pytest.raises(SpecError, match=r"ends in \.mp4 or \.gif; found 'all\.avi'"):
        write_history(run, tmp_path / "all.avi")
    with pytest.raises(RunFolderError, match="no clip that two validations wrote"):
        write_history(run, tmp_path / "all.mp4")
