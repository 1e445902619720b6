"""The report in a real browser: it draws, its clips play, nothing complains. Skipped where no browser is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vader.diffusion.frames import write_clip
from vader.report import write_comparison, write_report
from vader.report.server import ReportServer
from vader.spec import RunSpec

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
]
RED, GREEN = (0.85, 0.1, 0.1), (0.1, 0.7, 0.2)
PATIENT = ["--virtual-time-budget=20000"]
"""For what waits for clips to play: a busy machine decodes late, and the browser's clock does not wait for it."""
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed (apt install chromium)")


def browse(page: Path | str, profile: Path, *flags: str) -> tuple[str, str]:
    """Open a page; what the browser printed, and its log."""
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *flags, page if isinstance(page, str) else page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def screenshot(page: Path, folder: Path, *flags: str, width: int = 1200) -> np.ndarray:
    """Pixels ``(h, w, 3)`` of a page."""
    path = folder / "shot.png"
    browse(page, folder / "profile", f"--screenshot={path}", f"--window-size={width},2400", *flags)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def square(colour: tuple[float, float, float], place: int) -> torch.Tensor:
    """A 4-frame clip of a 16 x 16 square that moves on black."""
    clip = torch.zeros(4, 3, 32, 32)
    for i in range(4):
        clip[i, :, 8:24, place + i : place + i + 16] = torch.tensor(colour)[:, None, None]
    return clip


def near(pixels: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """Where pixels have about that colour, as far as a video codec keeps it."""
    mask: np.ndarray = (np.abs(pixels - np.array(colour) * 255) < 30).all(axis=-1)
    return mask


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two optimizer steps with two pairs of clips: red before, green after."""
    run = tmp_path_factory.mktemp("run")
    spec = {"backbone": "tiny", "prompts": "list", "rewards": ["green"], "train": {"steps": 2}}
    (run / "spec.yaml").write_text(RunSpec.model_validate(spec).to_yaml())
    lines = [{"step": step, "loss": 1 / step, "reward": step / 2, "time/rollout": 1.0, "skipped": 0} for step in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step, colour in ((0, RED), (2, GREEN)):
        samples = run / "samples" / f"step-{step:06d}"
        samples.mkdir(parents=True)
        clips = []
        for index in range(4):
            file = f"clip-{index:03d}.mp4" if index < 2 else None
            if file:
                write_clip(samples / file, square(colour, 4 + 2 * index), 8)
            scores = {"green": step * 0.3 + index * 0.02, "square": float(step > 0 or index == 0)}
            prompt = "a <b>green</b> square " + "that moves and moves " * index
            clips.append({"index": index, "prompt": prompt, "seed": index, "scores": scores, "file": file})
        (samples / "validation.json").write_text(json.dumps({"step": step, "clips": clips}))
    return write_report(run)


@pytest.fixture(scope="module")
def contest(page: Path) -> Path:
    """The run compared with itself."""
    return write_comparison([page.parent, page.parent], page.with_name("compare.html"))


@pytest.fixture(scope="module")
def light(page: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Pixels of the page."""
    return screenshot(page, tmp_path_factory.mktemp("light"))


@pytest.mark.parametrize(("name", "clips"), [("page", 4), ("contest", 6)])
def test_clips_play_and_nothing_complains(
    name: str, clips: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    dom, log = browse(request.getfixturevalue(name), tmp_path, *PATIENT, "--dump-dom")
    states = re.findall(r'class="frame" data-state="(\w+)"', dom)
    assert states == ["playing"] * clips, "the browser decodes and plays all clips"
    assert re.search(r'<button[^>]*id="toggle"(?![^>]*hidden)[^>]*>Pause clips<', dom), "the script ran"
    assert "CONSOLE" not in log, "no script error, no refused load"


def test_page_shows_the_colours_of_the_clips_side_by_side(light: np.ndarray) -> None:
    assert len(np.unique(light.reshape(-1, 3), axis=0)) > 100, "not blank"
    red, green = np.argwhere(near(light, RED)), np.argwhere(near(light, GREEN))
    assert min(len(red), len(green)) > 2 * 40 * 40, "two squares of each colour, enlarged"
    left, right = red[red[:, 1] < 400], green[green[:, 1] < 400]
    assert left[:, 1].max() < right[:, 1].min(), "before on the left of after"
    assert abs(left[:, 0].mean() - right[:, 0].mean()) < 5, "on one line"


def test_light_and_dark(light: np.ndarray, page: Path, tmp_path: Path) -> None:
    dark = screenshot(page, tmp_path, DARK)
    assert light[5, 5].min() > 230
    assert dark[5, 5].max() < 40
    assert near(dark, GREEN).sum() > 2 * 40 * 40


def test_narrow_pages_do_not_scroll_sideways(page: Path, contest: Path, tmp_path: Path) -> None:
    """Test-only copies without the security policy, in frames as wide as a phone, tell their widths."""
    frame = '<iframe style="width:360px;height:2000px" srcdoc="{}"></iframe>'
    probe = "<script>parent.document.title += `${document.documentElement.scrollWidth} ${innerWidth};`</script>"
    frames = ""
    for name in (page, contest):
        html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", name.read_text(encoding="utf-8"))
        frames += frame.format((html + probe).replace("&", "&amp;").replace('"', "&quot;"))
    copy = tmp_path / "copy.html"
    copy.write_text(frames, encoding="utf-8")
    dom, _ = browse(copy, tmp_path / "profile", "--dump-dom")
    said = re.search(r"<title>(.+)</title>", dom)
    assert said is not None
    widths = re.findall(r"(\d+) (\d+);", said[1])
    assert len(widths) == 2
    assert all(int(content) <= int(window) == 360 for content, window in widths)


def test_a_history_plays_and_its_link_gives_the_same_video(tmp_path: Path) -> None:
    for step in (0, 1, 2):
        samples = tmp_path / "run" / "samples" / f"step-{step:06d}"
        samples.mkdir(parents=True)
        write_clip(samples / "clip-000.mp4", square(GREEN, 2 + 2 * step), 8)
        clip = {"index": 0, "prompt": "a square", "seed": 1, "scores": {"s": step}, "file": "clip-000.mp4"}
        (samples / "validation.json").write_text(json.dumps({"step": step, "clips": [clip]}))
    dom, log = browse(write_report(tmp_path / "run"), tmp_path / "profile", *PATIENT, "--dump-dom")
    row = dom.split('class="card history"')[1].split("</figure>")[0]
    link, video = re.search(r"<a [^>]*>", row), re.search(r"<video [^>]*>", row)
    assert link is not None
    assert video is not None
    assert "hidden" not in link[0]
    assert re.findall(r'href="([^"]+)"', link[0]) == re.findall(r'src="([^"]+)"', video[0])
    assert 'class="frame" data-state="playing"' in row
    assert "CONSOLE" not in log


def test_a_live_page_reloads_itself(page: Path, tmp_path: Path) -> None:
    """From a server, because the page of an unfinished run is made anew at every look there.

    The first look ends before a reload is due, as a page has no words in the middle of one; the second sees some.
    """
    asked: list[str] = []
    metrics = page.parent / "metrics.jsonl"
    kept = metrics.read_text()
    metrics.write_text(kept.splitlines()[0] + "\n")

    class Counting(ReportServer):
        def page(self, path: str) -> str | None:
            asked.append(path)
            return super().page(path)

    with Counting(page.parent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        dom, log = browse(server.url, tmp_path, "--dump-dom")
        once = len(asked)
        _, later = browse(server.url, tmp_path, "--dump-dom", *PATIENT)
        server.shutdown()
        thread.join()
    metrics.write_text(kept)
    looks = [path == f"/{server.token}/{server.url.rsplit('/', 1)[1]}" for path in asked]
    assert sum(looks[:once]) == 1
    assert sum(looks[once:]) >= 2
    assert re.search(r'id="live">live, written \d+ s ago<', dom)
    assert "CONSOLE" not in log + later
