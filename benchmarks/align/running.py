"""One run: train, then evaluate its milestones. Finished runs are found again, interrupted ones are resumed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.align.evaluating import Evaluator, Grid
from benchmarks.align.planning import Plan, Run, clips_per_step, merged, updates_per_round

import vader
from vader.runs.folder import ADAPTER, RunFolder, step_folder
from vader.storage import write_json

RESULT, COST, OUTPUT = "result.json", "cost.jsonl", "run"
HELD_CLIPS = 8
"""Clips of the step whose memory is counted: the same for all, and whole groups of those that compare clips."""
_evaluators: dict[str, Evaluator] = {}


class CostMeter:
    """Notes seconds of processor and of wall timer that each optimizer step took, without checkpoints."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / COST
        self._mark = (0.0, 0.0)

    def _start(self) -> None:
        self._mark = (time.process_time(), time.perf_counter())

    @vader.hookimpl
    def vader_run_started(self, run: vader.Run) -> None:
        """See :mod:`vader.runs.events`."""
        self._start()

    @vader.hookimpl
    def vader_step_finished(self, run: vader.Run, step: int, metrics: Mapping[str, float]) -> None:
        """See :mod:`vader.runs.events`."""
        cpu, wall = self._mark
        line = {"step": step, "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._start()

    @vader.hookimpl
    def vader_checkpoint_saved(self, run: vader.Run, step: int, path: Path) -> None:
        """See :mod:`vader.runs.events`."""
        self._start()


def cost(folder: Path, steps: int) -> dict[str, float]:
    """Seconds that the first optimizer steps took. Steps that a resumption did again count once."""
    lines = (folder / COST).read_text(encoding="utf-8").splitlines()
    by_step = {line["step"]: line for line in map(json.loads, lines)}
    return {kind: sum(by_step[step + 1][kind] for step in range(steps)) for kind in ("cpu", "wall")}


def execute(plan: Plan, run: Run, home: Path) -> dict[str, Any]:
    """Make a run and its evaluations, or find them.

    Args:
        plan: the benchmark.
        run: of the plan.
        home: folder of all runs.

    Returns:
        ``{"settings", "evaluations": {queries: figures}, "environment"}``.
    """
    folder = home / run.folder
    found = finished(folder, _settings(plan, run))
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        made = vader.train({**run.spec, "output": str(folder / OUTPUT)}, resume=True, listeners=[CostMeter(folder)])
        _whole(made)
        evaluations = {str(queries): _evaluated(plan, run, folder, queries) for queries in run.milestones}
    result = {
        "settings": _settings(plan, run),
        "evaluations": evaluations,
        "environment": RunFolder(folder / OUTPUT).read_environment(),
    }
    write_json(folder / RESULT, result)
    return result


def _whole(made: vader.RunResult) -> None:
    """A run that a signal has ended early ends the benchmark: what is done is kept."""
    if made.stopped is not None:
        raise KeyboardInterrupt(made.stopped)


def finished(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a run that is done.

    Raises:
        ValueError: it was made with other settings.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found["settings"] != json.loads(json.dumps(settings)):
        raise ValueError(f"{path} was made with other settings. Choose another folder with --runs, or remove it.")
    return found


def _settings(plan: Plan, run: Run) -> dict[str, Any]:
    return {"spec": run.spec, "milestones": run.milestones, "evaluation": plan.options.evaluation.model_dump()}


def _evaluated(plan: Plan, run: Run, folder: Path, queries: int) -> dict[str, Any]:
    """The figures at a milestone."""
    step, made = run.milestones[queries], RunFolder(folder / OUTPUT)
    adapter = made.adapter if queries == run.queries else made.checkpoints / step_folder(step) / ADAPTER
    return {**evaluator(plan, adapter).adapter(adapter, divergence=True), **cost(folder, step)}


def evaluator(plan: Plan, adapter: Path) -> Evaluator:
    """This process's evaluator, opened at its first use."""
    key = json.dumps([plan.options.base, plan.options.evaluation.model_dump()], sort_keys=True)
    if key not in _evaluators:
        _evaluators[key] = Evaluator(plan.options.base, adapter, Grid(**plan.options.evaluation.model_dump()))
    return _evaluators[key]


def base_figures(plan: Plan, home: Path) -> dict[str, Any]:
    """The evaluation of the model without an adapter, made once; some run must be done."""
    path = home / "base.json"
    judging = {key: plan.options.base[key] for key in ("backbone", "sampler", "rewards", "validation")}
    settings = {"spec": judging, "evaluation": plan.options.evaluation.model_dump()}
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] == json.loads(json.dumps(settings)):
            return found
    adapter = RunFolder(next(home.glob(f"*/{RESULT}")).parent / OUTPUT).adapter
    found = {"settings": settings, **evaluator(plan, adapter).base()}
    write_json(path, found)
    return found


def count_operations(plan: Plan, name: str, home: Path) -> float:
    """Floating-point operations of a variant for each reward query, made or found.

    Counted by ``torch.utils.flop_counter`` over eight whole optimizer steps (or more, up to a whole round) of a small
    batch, to which the count is proportional: multiplications and additions of matrix products, attention and
    convolutions, of sampling, decoding, the reward, backward with its recomputation, and the text encoder. Element-wise
    work is not counted.
    """
    import tempfile

    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    run = plan.run(name, plan.options.seeds[0])
    path = _count_of(home, name)
    if (found := _counted(path, run.spec, "per_query")) is not None:
        return found
    options = run.spec.get("method", {}).get("options", {})
    inner_epochs, clips = updates_per_round(run.spec), max(2, options.get("group_size", 1))
    steps = -(-8 // inner_epochs) * inner_epochs
    train = {"steps": steps, "batch_size": clips, "checkpoint_every": steps, "early_stop": None}
    small = merged(run.spec, {"train": train, "validation": {"clips": 0}})
    path.parent.mkdir(parents=True, exist_ok=True)
    counter = FlopCounterMode(display=False)
    with tempfile.TemporaryDirectory() as folder, (home / "operations" / "log.txt").open("a", encoding="utf-8") as log:
        spec = merged(small, {"output": str(Path(folder) / "run")})
        # torch counts a fused attention kernel of the CPU as nothing; the plain one is matrix products.
        with contextlib.redirect_stderr(log), sdpa_kernel(SDPBackend.MATH), counter:
            _whole(vader.train(spec))
    per_query: float = counter.get_total_flops() / (steps * clips_per_step(small))
    write_json(path, {"spec": run.spec, "per_query": per_query})
    return per_query


def _count_of(home: Path, name: str) -> Path:
    return home / "operations" / f"{name}.json"


def held(plan: Plan, name: str, home: Path) -> float:
    """Bytes that an optimizer step of :data:`HELD_CLIPS` clips of a variant holds at its worst moment, made or found.

    Counted by :func:`vader.estimation.estimate` on tensors without bytes: weights, optimizer, and what is alive beside.
    """
    from vader.estimation import estimate

    run = plan.run(name, plan.options.seeds[0])
    path = home / "held" / f"{name}.json"
    spec = merged(run.spec, {"train": {"batch_size": HELD_CLIPS}, "validation": {"clips": 0}, "output": "unused"})
    if (found := _counted(path, spec, "bytes")) is not None:
        return found
    counted = float(estimate(spec, device="cpu").training.peak.total)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"spec": spec, "bytes": counted})
    return counted


def _counted(path: Path, spec: Mapping[str, Any], key: str) -> float | None:
    """What was counted before for a spec, whatever its number of optimizer steps; None where it was not."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    same = _lengthless(found["spec"]) == _lengthless(json.loads(json.dumps(spec)))
    return float(found[key]) if same else None


def _lengthless(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec whatever its number of optimizer steps, to which operations are proportional."""
    return merged(spec, {"train": {"steps": None, "checkpoint_every": None}})


def equalised(plan: Plan, home: Path, only: Sequence[str] | None = None) -> Plan:
    """The plan with the queries of each variant for the operations of its ``equal_to``, counted or found.

    With ``only``, of those, of the reference, and of all that were counted before. Queries are rounded to ten optimizer
    steps, so that checkpoints are not too many; results say what was really taken.
    """
    reference = plan.options.equal_to
    if reference is None:
        return plan
    budget = count_operations(plan, reference, home) * plan.options.queries
    equal = {}
    for name in plan.options.variants:
        spec = plan.run(name, plan.options.seeds[0]).spec
        if only and name not in (reference, *only) and _counted(_count_of(home, name), spec, "per_query") is None:
            continue
        unit = 10 * clips_per_step(spec)
        equal[name] = round(unit * max(1, round(budget / count_operations(plan, name, home) / unit)))
    return replace(plan, equal=equal)


SPEED = 0.042e12
"""Operations a second of one core, as the committed results have it (3.35 TFLOP of the last two steps in 80 s)."""


def costs(plan: Plan, home: Path) -> str:
    """What a plan will take, as a table: operations are counted, seconds follow from :data:`SPEED`."""
    counted = {name: count_operations(plan, name, home) for name in plan.options.variants}
    clips, cheapest = plan.options.evaluation.prompts * plan.options.evaluation.seeds, min(counted.values())
    lines, total = (
        ["| variant | queries of a run | GFLOP a query | runs | TFLOP in all | core minutes |", "| --- " * 6 + "|"],
        0.0,
    )
    for name, per_query in counted.items():
        runs = [plan.run(name, seed) for seed in plan.options.seeds]
        taken = sum(run.queries * per_query + len(run.milestones) * clips * cheapest for run in runs)
        total += taken
        minutes = f"{taken / SPEED / 60:.1f}"
        cells = [name, str(runs[0].queries), f"{per_query / 1e9:.2f}", str(len(runs)), f"{taken / 1e12:.1f}", minutes]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append(f"\nIn all {total / 1e12:.0f} TFLOP: about {total / SPEED / 3600 / 2:.1f} hours on two cores.")
    return "\n".join(lines)
