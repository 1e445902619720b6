"""A disk that is full or cannot be written: said before the run starts, or at the write that failed, nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.harness import (
    ADAPTER_FILE,
    BACKBONE,
    At,
    assert_same_run,
    left_behind,
    tiny,
)

import vader
from vader.plugins import registry
from vader.runs import checkpoint
from vader.weights import lora, sealed

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when weights are loaded."""

    def refuse(*arguments: Any) -> None:
        pytest.fail("weights were loaded")

    monkeypatch.setattr(registry.load("backbone", BACKBONE), "__init__", refuse)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    vader.train(tiny(folder))
    return folder


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write more than ``size`` bytes into any file, as a quota or a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# -- before the run starts


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "run"


def itself_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file"


def a_link_to_nothing(tmp_path: Path) -> Path:
    (tmp_path / "run").symlink_to(tmp_path / "unmounted")
    return tmp_path / "run"


def kernel_owned(tmp_path: Path) -> Path:
    return Path("/proc/vader/run")


PLACES = [below_a_file, itself_a_file, a_link_to_nothing, kernel_owned]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.usefixtures("unloaded")
def test_an_unwritable_folder_is_refused_before_weights_load(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    output = place(tmp_path)
    with pytest.raises(vader.RunFolderError) as error:
        vader.train(tiny(output))
    message = str(error.value)
    assert message.startswith("output: ")
    assert str(output) in message
    assert "Choose a writable folder" in message


@pytest.mark.usefixtures("unloaded")
def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vader.SpecError, match=r"output: .*has a name of 400 bytes"):
        vader.train(tiny(tmp_path / ("long" * 100)))


@pytest.mark.usefixtures("unloaded")
def test_no_room_is_refused_before_weights_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - 2**20, 2**20))
    with pytest.raises(vader.RunFolderError, match=r"1 MiB free.*needs at least 64 MiB") as error:
        vader.train(tiny(tmp_path / "run"))
    assert str(tmp_path / "run") in str(error.value)


def test_no_room_for_the_adapter_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the adapter's size is known, what will be kept must fit: three checkpoints, and the adapter twice."""
    seen: list[int] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 65 * 2**20))
    inject = lora.inject

    def large(*arguments: Any) -> list[torch.nn.Parameter]:
        inject(*arguments)
        return [torch.nn.Parameter(torch.empty(2**22, device="meta"))]

    monkeypatch.setattr(lora, "inject", large)
    with pytest.raises(vader.RunFolderError, match="65 MiB free; the run needs at least 208 MiB"):
        vader.train(tiny(tmp_path / "run"), listeners=[At(1, lambda: seen.append(1))])
    assert seen == []


# -- at a checkpoint


def full(*arguments: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def at_second(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, but the disk is full at its second call: after writing half, where it writes a file."""
    calls = iter(range(10**6))

    def failing(*arguments: Any, **named: Any) -> Any:
        if next(calls) == 1:
            full()
        return function(*arguments, **named)

    return failing


WRITERS: dict[str, tuple[Any, str]] = {
    "adapter": (lora, "save"),
    "optimizer": (torch, "save"),
    "manifest": (sealed, "write_json"),
    "folder": (checkpoint, "sync_folder"),
}


@pytest.mark.parametrize("writer", WRITERS, ids=str)
def test_a_full_disk_at_a_checkpoint(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    folder = tmp_path / "run"
    owner, name = WRITERS[writer]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at_second(getattr(owner, name)))
        if writer == "folder":  # called twice a checkpoint
            patch.setattr(owner, name, at_second(at_second(getattr(owner, name))))
        with pytest.raises(vader.CheckpointError) as error:
            vader.train(tiny(folder))
    message = str(error.value)
    for said in ("No space left on device", str(folder / "checkpoints"), "resume", "intact"):
        assert said in message, message
    assert left_behind(folder) == []
    for path in (folder / "checkpoints").iterdir():
        checkpoint.verify(path)
    vader.train(tiny(folder), resume=True)
    assert_same_run(folder, unbroken)


@pytest.mark.parametrize(
    ("size", "file"), [(500, "adapter_model"), (1000, "adapter_config"), (3000, "optimizer"), (10000, "rng-0")]
)
def test_the_system_refuses_a_write(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, file: str
) -> None:
    """Not simulated: each size stops another of a checkpoint's files, each written by another library."""
    folder, save = tmp_path / "run", checkpoint.save
    written = {path.stem: path.stat().st_size for path in (unbroken / "checkpoints" / "step-000004").rglob("*.*")}
    assert written[file] > size, "the limit stops nothing"

    def limited(checkpoints: Path, step: int, **rest: Any) -> Path:
        with files_of_at_most(size if step == 4 else 2**30):
            return save(checkpoints, step, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", limited)
        with pytest.raises(vader.CheckpointError, match="step 4 could not be written") as error:
            vader.train(tiny(folder))
    assert "intact" in str(error.value)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000002"]
    vader.train(tiny(folder), resume=True)
    assert_same_run(folder, unbroken)


def test_a_full_disk_at_the_final_adapter(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last checkpoint is there by then: the message says so, and resuming writes what is missing."""
    folder = tmp_path / "run"
    save = lora.save

    def failing(denoiser: torch.nn.Module, target: Path, **named: Any) -> None:
        if "checkpoints" not in target.parts:
            (target / ADAPTER_FILE).write_bytes(b"half")
            full()
        save(denoiser, target, **named)

    with monkeypatch.context() as patch:
        patch.setattr(lora, "save", failing)
        with pytest.raises(vader.CheckpointError, match="No space left on device"):
            vader.train(tiny(folder))
    assert not (folder / "adapter" / ADAPTER_FILE).exists(), "half an adapter passes for a whole one"
    assert left_behind(folder) == []
    vader.train(tiny(folder), resume=True)
    assert_same_run(folder, unbroken)


def test_a_final_adapter_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash while it is written must not leave a folder that generation takes for the run's adapter."""
    folder = tmp_path / "run"
    save = lora.save

    def dying(denoiser: torch.nn.Module, target: Path, **named: Any) -> None:
        save(denoiser, target, **named)
        if "checkpoints" not in target.parts:
            (target / ADAPTER_FILE).write_bytes(b"half")
            raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(lora, "save", dying)
        with pytest.raises(SystemExit):
            vader.train(tiny(folder))
    made = vader.generate(folder, ["a red circle"])
    assert made[0].frames.shape == (3, 3, 4, 4)


def test_a_full_disk_at_the_metrics(unbroken: Path, tmp_path: Path) -> None:
    """The line is torn, the run says why it ends, and resuming makes the step again."""
    folder = tmp_path / "run"
    metrics, stack = folder / "metrics.jsonl", ExitStack()

    def no_more() -> None:
        stack.enter_context(files_of_at_most(metrics.stat().st_size + 20))

    with stack, pytest.raises(vader.VaderError, match="File too large") as error:
        vader.train(tiny(folder, train={"checkpoint_every": 2}), listeners=[At(3, no_more)])
    assert str(metrics) in str(error.value)
    assert "resume" in str(error.value)
    assert not metrics.read_text().endswith("\n"), "the limit did not tear the line"
    vader.train(tiny(folder), resume=True)
    assert_same_run(folder, unbroken)
