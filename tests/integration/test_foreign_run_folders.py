"""Run folders of somebody else: what a link or a pipe in one leads to is neither shown, nor shared, nor changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.harness import tiny

import vader
from vader.errors import CheckpointError, RunFolderError
from vader.report import write_report
from vader.runs import checkpoint
from vader.sharing.folder import write_folder
from vader.storage import write_bytes, write_json, write_with
from vader.weights import sealed

FINISHED = {
    "train": {"steps": 2, "warmup_steps": 0, "schedule": "constant", "checkpoint_every": 1},
    "validation": {"clips": 1, "save_clips": 1},
}
LAST = "step-000002"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two optimizer steps."""
    output = tmp_path_factory.mktemp("foreign") / "run"
    vader.train(tiny(output, **FINISHED))
    return output


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be altered."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of somebody's own, with files of the names that an adapter has."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "manifest.json", "thesis.tex"):
        (folder / name).write_text("SECRET")
    return folder


def untouched(mine: Path) -> bool:
    return sorted(path.read_text() for path in mine.iterdir()) == ["SECRET"] * 4


def longer(run: Path) -> vader.RunResult:
    return vader.train(run, ["train.steps=3"], resume=True)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"]
)
def test_what_a_link_leads_to_is_not_shared(run: Path, mine: Path, tmp_path: Path, name: str) -> None:
    (run / "adapter" / "manifest.json").unlink()
    (run / "adapter" / name).unlink(missing_ok=True)
    (run / "adapter" / name).symlink_to(mine / "thesis.tex")
    with pytest.raises(RunFolderError, match=rf"adapter/{name}' is a link out of the run's folder"):
        write_folder(run, "me/x", tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


def test_an_adapter_in_a_linked_folder_is_not_shared(run: Path, tmp_path: Path) -> None:
    (run / "adapter").rename(tmp_path / "another")
    (run / "adapter").symlink_to(tmp_path / "another")
    with pytest.raises(RunFolderError, match="is a link out of the run's folder"):
        write_folder(run, "me/x", tmp_path / "shared")


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.aside.jsonl"])
def test_lines_are_added_to_no_link(run: Path, mine: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(mine / "thesis.tex")
    with pytest.raises(RunFolderError, match=rf"{name}' is a link to .*thesis\.tex', which is left as it is"):
        longer(run)
    assert untouched(mine)


@pytest.mark.parametrize("place", ["adapter", ".adapter.old", ".adapter.partial", f"checkpoints/.{LAST}.old"])
def test_a_linked_folder_in_the_place_of_ours_is_left_alone(run: Path, mine: Path, place: str) -> None:
    shutil.rmtree(run / place, ignore_errors=True)
    (run / place).symlink_to(mine)
    assert longer(run).step == 3
    assert untouched(mine)
    assert (run / "adapter" / "manifest.json").is_file()
    assert not (run / "adapter").is_symlink()


@pytest.mark.parametrize("write", [lambda path: write_bytes(path, b"ours"), lambda path: write_with(path, _ours)])
def test_a_link_under_a_temporary_name_is_not_written_through(
    write: Callable[[Path], None], mine: Path, tmp_path: Path
) -> None:
    for name in (".x.partial", f".x.{os.getpid()}.partial"):
        (tmp_path / name).symlink_to(mine / "thesis.tex")
    write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"ours"
    assert untouched(mine)


def _ours(file: object) -> None:
    file.write(b"ours")  # type: ignore[attr-defined]


def forge(folder: Path, **values: object) -> None:
    """Change what a manifest says, and its digest with it, as who means harm would."""
    manifest = {**sealed.read(folder), **values}
    write_json(folder / sealed.MANIFEST, {**manifest, "sha256": sealed._own(manifest)})


@pytest.mark.parametrize(
    "values",
    [
        {"files": []},
        {"files": "x"},
        {"files": None},
        {"files": {"../../../mine/thesis.tex": "0"}},
        {"files": {"/etc/passwd": "0"}},
        {"files": {"a\0b": "0"}},
        {"files": {"adapter": "0"}},
        {"step": "2"},
        {"digest": 1},
        {"processes": None},
    ],
    ids=str,
)
def test_a_forged_manifest_is_damage(run: Path, mine: Path, values: dict[str, object]) -> None:
    forge(run / "checkpoints" / LAST, **values)
    with pytest.raises(CheckpointError, match=LAST):
        checkpoint.verify(run / "checkpoints" / LAST)
    said: list[str] = []
    found = checkpoint.newest(run / "checkpoints", said.append)
    assert found is None or found.path.name != LAST
    assert len(said) >= 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
@pytest.mark.parametrize(
    "place",
    [
        f"samples/{LAST}/validation.json",
        "adapter/manifest.json",
        "adapter/adapter_config.json",
        "code/index.json",
        f"checkpoints/{LAST}/manifest.json",
        f"checkpoints/{LAST}/optimizer.pt",
        "environment.json",
    ],
)
def test_nobody_waits_for_a_pipe(run: Path, place: str) -> None:
    (run / place).unlink(missing_ok=True)
    os.mkfifo(run / place)
    write_report(run)
    vader.generate(run, ["a red circle"])
    assert longer(run).step == 3
