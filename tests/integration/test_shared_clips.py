"""Clips that several processes make together are those of one process, byte for byte."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.integration.harness import PROMPT_LENGTH, python, tiny

import vader
from vader.runs.shares import in_shares

PROMPTS = ["a red circle", "a blue square", "a green triangle"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an adapter that does something."""
    folder = tmp_path_factory.mktemp("shared") / "run"
    validation = {"clips": 5, "save_clips": 3, "batch_size": 2, "rewards": [PROMPT_LENGTH]}
    vader.train(tiny(folder, train={"learning_rate": 0.1}, validation=validation))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = python(["-m", "vader", *map(str, arguments), "--trust-code"])
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_generate_in_two_processes(run: Path, tmp_path: Path) -> None:
    """Three whole batches, the last one made by one process alone; every option reaches the processes."""
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    options = ["--seed=3", "--seed=4", "--batch-size=2", "--grid", "--enlarge=2", "--adapter-scale=0.5"]
    made = command("generate", run, *prompts, *options, "-o", tmp_path / "two", "--processes", "2")
    vader.generate(
        run, PROMPTS, seeds=[3, 4], batch_size=2, grid=True, enlarge=2, adapter_scale=0.5, output=tmp_path / "one"
    )
    assert len(files(tmp_path / "one")) == 7
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert [line.split("  ")[-1] for line in made.stdout.splitlines()] == [p for p in PROMPTS for _ in (3, 4)]
    assert made.stderr.count("clip 6 of 6") == 1


@pytest.mark.slow
def test_evaluate_in_two_processes(run: Path, tmp_path: Path) -> None:
    """Five clips in batches of two: the second process has one batch, and the first two."""
    two = command("evaluate", run, "-o", tmp_path / "two", "--processes", "2")
    one = vader.evaluate(run, output=tmp_path / "one")
    assert one.adapted is not None
    for key in one.base.keys:
        assert f"{one.base.mean(key):.4g}" in two.stdout
        assert f"{one.adapted.mean(key):.4g}" in two.stdout
    assert len(files(tmp_path / "one")) == 6
    assert files(tmp_path / "two") == files(tmp_path / "one")


class Crew:
    """One process of several: what it makes is kept, the others' is not there."""

    def __init__(self, num_processes: int, process_index: int, *, in_step: bool = False) -> None:
        self.num_processes, self.process_index, self.in_step = num_processes, process_index, in_step
        self.batches: list[list[int]] = []

    def to_main(self, values: list[int]) -> list[int]:
        self.batches.append(values)
        return values


@pytest.mark.parametrize(("count", "size", "processes"), [(5, 2, 1), (5, 2, 2), (7, 2, 3), (1, 4, 3), (0, 2, 2)])
def test_shares_are_whole_batches(count: int, size: int, processes: int) -> None:
    """Every process comes to as many meetings; by meeting and rank, the batches are those of one process."""
    crews = [Crew(processes, rank) for rank in range(processes)]
    for crew in crews:
        list(in_shares(crew, count, size, list))
    meetings = {len(crew.batches) for crew in crews}
    assert len(meetings) == 1
    together = [batch for meeting in zip(*(crew.batches for crew in crews), strict=True) for batch in meeting if batch]
    assert together == [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def test_processes_in_step_make_as_many_batches() -> None:
    """Where weights are shared out, one that has no batch left runs along; what it makes does not count."""
    calls = []
    for rank in (0, 1):
        made: list[range] = []
        crew = Crew(2, rank, in_step=True)
        list(in_shares(crew, 5, 2, lambda rows, made=made: made.append(rows) or list(rows)))
        calls.append(made)
    assert calls == [[range(2), range(4, 5)], [range(2, 4), range(4, 5)]]
    assert crew.batches == [[2, 3], []]
