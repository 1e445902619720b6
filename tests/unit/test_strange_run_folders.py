"""Run folders from strangers: the report shows what it can, shows nothing that is not the run's, and writes nowhere
else."""

from __future__ import annotations

import json
import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.mutations import damage

from vader.errors import RunFolderError
from vader.report import write_comparison, write_report

GOLDEN = Path(__file__).parents[1] / "golden" / "run_folder_a"


@settings(
    max_examples=60,
    deadline=timedelta(seconds=5),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
def test_any_damage_leaves_a_report_or_one_error(tmp_path: Path, seed: int) -> None:
    rng, folder = random.Random(seed), tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(GOLDEN, folder)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".jsonl", ".yaml")]
    wanted = [path for path in files if "checkpoints" not in path.parts]
    for path in rng.sample(wanted, rng.randint(1, min(3, len(wanted)))):
        damage(path, rng)
    try:
        report = write_report(folder)
    except RunFolderError:
        report = None
    assert list(tmp_path.iterdir()) == [folder]
    if report is not None:
        compared = write_comparison([folder, GOLDEN, folder], folder / "compare.html")
        for page in (report, compared):
            assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with two validations of a clip, and a secret beside it."""
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN, folder)
    for path in folder.glob("samples/step-*/validation.json"):
        data = json.loads(path.read_text())
        data.pop("sha256", None)
        for index, clip in enumerate(data["clips"]):
            clip["file"] = f"clip-{index:03d}.gif"
            (path.parent / clip["file"]).write_bytes(f"picture {path.parent.name} {index}".encode())
        path.write_text(json.dumps(data))
    (tmp_path / "secret").write_text("SECRET")
    return folder


SECRET, PICTURE = "U0VDUkVU", "cGljdHVyZ"
"""The beginnings of the secret and of a picture, as a data URI has them."""


def test_clips_of_the_folder_are_shown(folder: Path) -> None:
    text = write_report(folder).read_text()
    assert PICTURE in text
    assert SECRET not in text


@pytest.mark.parametrize("kind", ["file", "relative", "folder", "samples", "chain"])
def test_a_link_out_of_the_folder_is_not_followed(folder: Path, kind: str) -> None:
    secret = folder.parent / "secret"
    for clip in list(folder.glob("samples/step-*/*.gif")):
        clip.unlink()
        if kind == "file":
            clip.symlink_to(secret)
        elif kind == "relative":
            clip.symlink_to("../../../secret")
        elif kind == "chain":
            (clip.parent / "other").unlink(missing_ok=True)
            (clip.parent / "other").symlink_to(secret)
            clip.symlink_to("other")
        else:
            clip.write_text("SECRET")
    if kind == "folder":
        for step in list(folder.glob("samples/step-*")):
            step.rename(folder.parent / step.name)
            step.symlink_to(folder.parent / step.name)
    if kind == "samples":
        (folder / "samples").rename(folder.parent / "samples")
        (folder / "samples").symlink_to(folder.parent / "samples")
    text = write_report(folder).read_text()
    assert SECRET not in text
    assert "SECRET" not in text


@pytest.mark.parametrize("name", ["spec.yaml", "metrics.jsonl", "environment.json"])
def test_a_text_that_is_a_link_is_not_shown(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text('{"step": 1, "SECRET": "SECRET", "device": "SECRET"}')
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder.parent / "secret")
    assert "SECRET" not in write_report(folder).read_text()


def test_a_run_that_is_reached_by_a_link_is_shown(folder: Path) -> None:
    (folder.parent / "latest").symlink_to(folder)
    assert PICTURE in write_report(folder.parent / "latest").read_text()


def test_nothing_is_written_through_a_link(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)
    secret = folder.parent / "secret"
    (folder / ".report.html.7.partial").symlink_to(secret)
    (folder / "report.html").symlink_to(secret)
    assert not write_report(folder).is_symlink()
    assert secret.read_text() == "SECRET"


def test_a_part_that_cannot_be_made_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise ValueError("no")

    for name in ("gallery", "compare", "summarise", "phases"):
        with monkeypatch.context() as patch:
            patch.setattr(f"vader.report.page.{name}", fails)
            assert "cannot be shown: ValueError: no." in write_report(folder).read_text()


@pytest.mark.parametrize(
    "text", ["", "\0", "[]", '{"step": 1e400}', '{"step": 99999999999999999999, "loss": 1}', "{" * 9999]
)
def test_metrics_of_any_kind(folder: Path, text: str) -> None:
    (folder / "metrics.jsonl").write_text(text)
    assert write_report(folder).is_file()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunFolderError, match="is not a run folder"):
            write_report(path)
    (tmp_path / "spec.yaml").write_text("3")
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunFolderError, match="cannot write"):
        write_report(tmp_path)
