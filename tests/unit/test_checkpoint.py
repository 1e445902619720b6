"""What a checkpoint keeps: each thing is registered once, and comes back, in whichever place it lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vader.runs import checkpoint
from vader.runs.stateful import Registry


class Box:
    """Holds a value that can be taken and put back."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def save(self) -> Any:
        return self.value

    def restore(self, value: Any) -> None:
        self.value = value


class Note(Box):
    """Fills a folder with one file."""

    def save(self) -> Callable[[Path], None]:
        return lambda folder: (folder / "note.txt").write_text(self.value)  # type: ignore[func-returns-value]

    def restore(self, folder: Path) -> None:
        self.value = (folder / "note.txt").read_text()


def boxes(rank: int) -> dict[str, Box]:
    return {
        "note": Note("what main says"),
        "moments": Box({"tensor": torch.arange(3.0), "step": 4}),
        "memory": Box([f"of process {rank}"]),
        "chance": Box({"state": [rank, 7]}),
        "counts": Box({"skipped": 2}),
    }


PLACES = {"note": "folder", "moments": "training", "memory": "training", "chance": "process", "counts": "manifest"}


def registry(made: dict[str, Box]) -> Registry:
    kept = Registry()
    for name, box in made.items():
        kept.register(name, PLACES[name], box.save, box.restore, by_process=name == "memory")  # type: ignore[arg-type]
    return kept


def written(folder: Path) -> checkpoint.Checkpoint:
    """The checkpoint of two processes; what the other one gives is collected first."""
    other, main = registry(boxes(1)), registry(boxes(0))
    sent: list[Any] = []

    def send(values: list[Any]) -> list[Any]:
        sent.extend(values)
        return values

    assert other.collect(send, main=False).keys() == {"memory", "chance"}, "the rest is the main process's alone"
    state = main.collect(lambda values: [*values, sent.pop(0)], main=True)
    path = checkpoint.save(folder, 12, digest="d", processes=2, first_processes=2, registry=main, state=state)
    return checkpoint.verify(path)


@pytest.mark.parametrize("rank", [0, 1])
def test_everything_comes_back_to_its_own_process(tmp_path: Path, rank: int) -> None:
    found = written(tmp_path)
    assert (found.path.name, found.step, found.digest, found.processes) == ("step-000012", 12, "d", 2)
    made = {name: Note("") if name == "note" else Box(None) for name in PLACES}
    checkpoint.restore(found, registry(made), rank)
    expected = boxes(rank)
    assert torch.equal(made["moments"].value.pop("tensor"), expected["moments"].value.pop("tensor"))
    assert {name: box.value for name, box in made.items()} == {name: box.value for name, box in expected.items()}


def test_each_thing_lies_in_its_place(tmp_path: Path) -> None:
    path = written(tmp_path).path
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert files == {"note/note.txt", "optimizer.pt", "chance-0.json", "chance-1.json", "manifest.json"}


def test_a_name_is_one_things() -> None:
    kept = registry(boxes(0))
    with pytest.raises(AssertionError, match="moments is registered twice"):
        kept.register("moments", "training", dict, dict)
