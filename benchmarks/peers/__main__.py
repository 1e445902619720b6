"""Our step beside those of two peers, and what shortcuts cost: ``python -m benchmarks.peers``.

Everything runs in this process, in turns. Results go to ``benchmarks/peers/results`` and, as
tables, to ``docs/how-to/speed.md``; those of parts that are not run stay.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from benchmarks.peers import loops, measuring, shortcuts, worlds

from vader.report.statistics import mean_interval

PARTS = ("steps", "directions", "train")
HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE.parents[1] / "docs" / "how-to" / "speed.md"
KEPT = "Wan, VideoX-Fun's loop; ours with `recompute: false`"
CASES: list[tuple[str, str, Callable[[worlds.World], torch.Tensor], int, int, bool]] = [
    ("ModelScope, the reference's loop", "modelscope", loops.modelscope_reference, 25, 1, False),
    ("ModelScope, the reference's loop", "modelscope", loops.modelscope_reference, 25, 1, True),
    *[
        ("Wan, VideoX-Fun's loop", "wan", loops.wan_videox_fun, steps, k, blocks)
        for steps in (10, 25)
        for k in (1, 5)
        for blocks in (True, False)
    ],
    *[(KEPT, "wan", loops.wan_videox_fun, steps, 5, False) for steps in (10, 25)],
]
"""Title, family, the peer's loop, denoising steps, K, whether blocks are recomputed."""


def steps_table(rounds: int) -> list[dict[str, Any]]:
    """Every case: cost of both, and ours to theirs in time."""
    rows = []
    for title, family, peer, steps, k, blocks in CASES:
        world = worlds.build(family, steps=steps, k=k, blocks=blocks, recompute=False if title == KEPT else "auto")
        ours, theirs = lambda w=world: w.step.step(0)[0]["loss"], lambda w=world, p=peer: p(w)
        losses = []
        for step in (ours, theirs):
            measuring.clear(world)
            losses.append(float(step()))
        if abs(losses[0] - losses[1]) > 1e-5 * abs(losses[0]):
            raise AssertionError(f"{title}: our loss is {losses[0]}, theirs {losses[1]}; expected the same.")
        spent = measuring.processor_seconds([ours, theirs], rounds)
        row = {"title": title, "steps": steps, "k": k, "blocks": blocks, "losses": losses, "seconds": spent}
        row |= {"ratio": measuring.ratio(*spent)}
        row |= {name: asdict(measuring.cost(world, step)) for name, step in (("ours", ours), ("theirs", theirs))}
        rows.append(row)
        print(_step_row(row), flush=True)
    return rows


def train_table(seeds: int) -> dict[str, Any]:
    """Steps, operations and reward in the course of each training, by seed."""
    found: dict[str, Any] = {}
    for name in shortcuts.TRAININGS:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(prefix="vader-peers-") as folder:
                found.setdefault(name, []).append(shortcuts.trained(Path(folder) / "run", name, seed))
            print(name, seed, [(step, round(reward, 3)) for step, _, reward in found[name][-1]], flush=True)
    return found


def _reached(curve: Sequence[Sequence[float]], wanted: float) -> float | None:
    """Operations after which a curve of (step, operations, reward) first has the wanted reward; None if never."""
    for (_, before, low), (_, after, high) in pairwise(curve):
        if high >= wanted:
            return before + (after - before) * max(0.0, (wanted - low) / (high - low))
    return None


def _train_rows(train: Mapping[str, Any]) -> list[str]:
    """A row for each training; the first one is the measure of the others."""
    rows, measure = [], next(iter(train.values()))
    wanted, whole = fmean(run[-1][2] for run in measure), measure[0][-1][1]
    for name, runs in train.items():
        ends = [run[-1][2] for run in runs]
        found = mean_interval(ends)
        interval = f" [{found.low:.3f}, {found.high:.3f}]" if found else ""
        curve = [[*points[0][:2], fmean(point[2] for point in points)] for points in zip(*runs, strict=True)]
        reached = _reached(curve, wanted)
        cells = [name, f"{runs[0][-1][1] / whole:.2f}", f"{fmean(run[0][2] for run in runs):.3f}"]
        cells += [f"{fmean(ends):.3f}{interval}", ", ".join(f"{end:.3f}" for end in ends)]
        rows.append(f"| {' | '.join(cells)} | {'not reached' if reached is None else f'{reached / whole:.2f}'} |")
    return rows


COLUMNS = (
    "loop", "N", "K", "blocks recomputed", "time, ours / theirs", "quartiles", "FLOPs, ours / theirs",
    "denoiser calls, ours / theirs", "saved, MB", "held, MB",
)  # fmt: skip


def _step_row(row: Mapping[str, Any]) -> str:
    ours, theirs, (middle, low, high) = row["ours"], row["theirs"], row["ratio"]
    pairs = [f"{ours[name] / 1e6:.1f} / {theirs[name] / 1e6:.1f}" for name in ("saved", "held")]
    return (
        f"| {row['title']} | {row['steps']} | {row['k']} | {'yes' if row['blocks'] else 'no'} | {middle:.2f} "
        f"| {low:.2f} to {high:.2f} | {ours['flops'] / theirs['flops']:.3f} | {ours['calls']} / {theirs['calls']} "
        f"| {' | '.join(pairs)} |"
    )


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """The results in Markdown, by name."""
    made = {}
    if "steps" in results:
        machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
        made["steps"] = "\n".join([*_head(COLUMNS), *map(_step_row, results["steps"]), "", f"Machine: {machine}."])
    if "directions" in results:
        columns = ["before the window", "denoiser FLOPs, of the exact rollout's", "cosine with the exact gradient"]
        rows = [f"| {name} | {row['share']:.2f} | {row['cosine']:.3f} |" for name, row in results["directions"].items()]
        made["directions"] = "\n".join([*_head(columns), *rows])
    if "train" in results:
        columns = ["before the window", "denoiser FLOPs, of the first's", "reward before", "after [95 % over seeds]"]
        columns += ["by seed", "denoiser FLOPs until the first's reward"]
        made["train"] = "\n".join([*_head(columns), *_train_rows(results["train"])])
    return made


def _head(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"{'|---' * len(columns)}|"]


def fill(page: Path, made: Mapping[str, str]) -> None:
    """Put each table between its marks in a page."""
    text = page.read_text(encoding="utf-8")
    for name, table in made.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}{table}\n{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")


def _processor() -> str:
    """The processor's name, where the system tells it."""
    told = Path("/proc/cpuinfo")
    names = [line for line in told.read_text().splitlines() if line.startswith("model name")] if told.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()


def main() -> None:
    """Measure, write results.json, and renew the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Our step beside two peers'.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run; all by default")
    parser.add_argument("--rounds", type=int, default=9, help="times that each step is timed")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = RESULTS / "results.json"
    results: dict[str, Any] = json.loads(known.read_text()) if known.is_file() else {}
    for part in arguments.only:
        if part == "steps":
            versions = {name: version(name) for name in ("torch", "diffusers", "peft", "accelerate")}
            results["machine"] = {"processor": _processor(), "cores": os.cpu_count(), "threads used": 1, **versions}
            results["steps"] = steps_table(arguments.rounds)
        elif part == "directions":
            results["directions"] = {name: asdict(found) for name, found in shortcuts.directions().items()}
        else:
            results["train"] = train_table(arguments.seeds)
        known.parent.mkdir(exist_ok=True)
        known.write_text(json.dumps(results) + "\n", encoding="utf-8")
        fill(PAGE, tables(results))


if __name__ == "__main__":
    main()
