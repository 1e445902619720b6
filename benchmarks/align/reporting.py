"""From the runs to the results: figures, tables and plots. Every figure of the docs comes from here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.align import plots, running
from benchmarks.align.figures import ACCURACY, REWARD
from benchmarks.align.planning import Plan, clips_per_step
from benchmarks.align.tables import tables

from vader.report.statistics import Interval, mean, mean_interval, paired_change, standard_deviation
from vader.runs.events import Validation, ValidationClip
from vader.runs.hacking import alarms
from vader.spec import HackingSpec
from vader.storage import write_json, write_text

PAGES = ("benchmark.md", "choosing-a-method.md")
"""Pages of the docs with ``<!-- table NAME -->`` ... ``<!-- end -->``, between which a table is put."""


def write(plan: Plan, home: Path, folder: Path, docs: Path | None) -> str:
    """Write ``results.json``, ``table.md`` and the plots of every finished run.

    Args:
        plan: the benchmark.
        home: folder of the runs.
        folder: of the results.
        docs: the docs, whose tables and plots are renewed; None puts the plots beside the results.

    Returns:
        The main table.
    """
    data = collect(plan, home)
    if plan.swept:
        data["rates"] = chosen(plan, home)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", data)
    made = tables(data)
    write_text(folder / "table.md", "\n\n".join(made.values()) + "\n")
    for name, svg in plots.draw(data).items():
        write_text(docs / "images" / f"align-{name}.svg" if docs else folder / f"{name}.svg", svg)
    for page in [docs / name for name in PAGES] if docs else []:
        write_text(page, with_tables(page.read_text(encoding="utf-8"), documented(folder)))
    return made["main"]


def documented(folder: Path) -> dict[str, str]:
    """The tables that the docs show, by name: of the results, and of the sweep of learning rates."""
    data, swept = (
        tables(json.loads((where / "results.json").read_text(encoding="utf-8"))) for where in (folder, folder / "sweep")
    )
    return {**data, "sweep": swept["main"]}


def with_tables(text: str, made: Mapping[str, str]) -> str:
    """A page with its tables renewed."""
    for name, table in made.items():
        place = f"<!-- table {name} -->\n"
        parts = re.split(rf"{place}.*?(?=<!-- end -->)", text, flags=re.DOTALL)
        text = f"{place}\n{table}\n\n".join(parts)
    return text


def collect(plan: Plan, home: Path) -> dict[str, Any]:
    """The figures of every finished run, by variant and queries."""
    base = running.base_figures(plan, home)
    variants: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    at_equal: dict[str, dict[str, list[float]]] = {}
    for name, options in plan.options.variants.items():
        done = _done(plan, name, home)
        if not done:
            continue
        environment = next(iter(done.values()))["environment"]
        if name in plan.equal:
            runs = [one["evaluations"][str(plan.equal[name])]["scores"] for one in done.values()]
            at_equal[name] = {key: _over_seeds([run[key] for run in runs]) for key in (REWARD, ACCURACY)}
        counted, held = (_kept(home / folder / f"{name}.json") for folder in ("operations", "held"))
        variants[name] = {
            "title": options.title,
            "curve": options.curve,
            "kl": options.kl,
            "spec": options.spec,
            "seeds": sorted(done),
            "operations_per_query": counted.get("per_query"),
            "queries_per_step": clips_per_step(plan.run(name, min(done)).spec),
            "held": held.get("bytes"),
            "points": {
                queries: _point(base, int(queries), [one["evaluations"][queries] for one in done.values()])
                for queries in next(iter(done.values()))["evaluations"]
            },
        }
    reference = at_equal.get(str(plan.options.equal_to), {})
    for name, scores in at_equal.items() if reference else ():
        beside = {key: paired_change(reference[key], values) for key, values in scores.items()}
        variants[name]["beside"] = {
            key: {"gain": change.difference, "interval": _ends(change.interval)} for key, change in beside.items()
        }
    kept = ("versions", "python", "cpus", "threads")
    return {
        "queries": plan.options.queries,
        **({"equal_to": plan.options.equal_to, "equal": dict(plan.equal)} if plan.equal else {}),
        "evaluation": plan.options.evaluation.model_dump(),
        "environment": {key: environment[key] for key in kept if key in environment},
        "base": {
            REWARD: mean(base["scores"][REWARD]),
            ACCURACY: mean(base["scores"][ACCURACY]),
            "diversity": mean(base["diversity"]),
            "by_kind": {kind: mean(_accuracies(base, rows)) for kind, rows in _kinds(base).items()},
        },
        "variants": variants,
    }


def _done(plan: Plan, name: str, home: Path) -> dict[int, dict[str, Any]]:
    """The results of a variant's finished runs, by training seed."""
    found = {seed: _kept(home / plan.run(name, seed).folder / running.RESULT) for seed in plan.options.seeds}
    return {seed: result for seed, result in found.items() if result}


def chosen(plan: Plan, home: Path) -> dict[str, float]:
    """By variant, the lowest rate of a sweep whose reward is within one standard error of the best one's.

    The error is that of the mean difference over clips. This is the one-standard-error rule of Breiman et al. (1984),
    here because a sweep is shorter than the comparison: what is best within few optimizer steps is too high for many.
    """
    found = {}
    for variant, rates in plan.swept.items():
        done = {rate: _done(plan, name, home).values() for name, rate in rates.items()}
        scores = {
            rate: _over_seeds([run["evaluations"][str(plan.options.queries)]["scores"][REWARD] for run in runs])
            for rate, runs in done.items()
            if runs
        }
        if scores:
            best = max(scores.values(), key=mean)
            found[variant] = min(rate for rate, made in scores.items() if _within_an_error(made, best))
    return found


def _within_an_error(made: Sequence[float], best: Sequence[float]) -> bool:
    below = [high - low for low, high in zip(made, best, strict=True)]
    deviation = standard_deviation(below)
    return deviation is not None and mean(below) <= deviation / math.sqrt(len(below))


def _over_seeds(scores: Sequence[Sequence[float]]) -> list[float]:
    """The means of clips over training seeds."""
    return [mean(values) for values in zip(*scores, strict=True)]


def _kept(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _kinds(figures: Mapping[str, Any]) -> dict[str, list[int]]:
    """The clips of each kind of prompt, in the order of their first."""
    found: dict[str, list[int]] = {}
    for index, kind in enumerate(figures["kinds"]):
        found.setdefault(kind, []).append(index)
    return found


def _accuracies(figures: Mapping[str, Any], rows: Sequence[int]) -> list[float]:
    """Of some clips of an evaluation."""
    return [figures["scores"][ACCURACY][row] for row in rows]


def alarmed(base: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Image statistics of an evaluation that have left the base's range, by the guard of validations."""

    def validation(step: int, figures: Mapping[str, Any]) -> Validation:
        known = figures["statistics"]
        count = len(next(iter(known.values())))
        rows = [{name: of[i] for name, of in known.items() if of[i] is not None} for i in range(count)]
        return Validation(step, tuple(ValidationClip(i, "", 0, {}, statistics=row) for i, row in enumerate(rows)))

    return [alarm.statistic for alarm in alarms(HackingSpec(), (validation(0, base), validation(1, run)))]


def _point(base: Mapping[str, Any], queries: int, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A variant after some queries: means over clips and training seeds, with intervals of the change from the base."""
    return {
        "queries": queries,
        REWARD: _change(base["scores"][REWARD], [run["scores"][REWARD] for run in runs]),
        ACCURACY: _change(base["scores"][ACCURACY], [run["scores"][ACCURACY] for run in runs]),
        "diversity": _change(base["diversity"], [run["diversity"] for run in runs]),
        "by_kind": {
            kind: _change(_accuracies(base, rows), [_accuracies(run, rows) for run in runs])
            for kind, rows in _kinds(base).items()
        },
        "alarms": [alarmed(base, run) for run in runs],
        "divergence": mean([run["divergence"] for run in runs]),
        "divergence_by_seed": [run["divergence"] for run in runs],
        "cpu": mean([run["cpu"] for run in runs]),
        "wall": mean([run["wall"] for run in runs]),
    }


def _change(before: Sequence[float], after: Sequence[Sequence[float]]) -> dict[str, Any]:
    """How a figure changed.

    Args:
        before: of each clip (or prompt) of the base.
        after: of the same clips, for each training seed.

    Returns:
        ``gain``, the mean change; ``interval`` over clips, each paired with the base's clip of the same prompt and
        noise and averaged over training seeds; ``by_seed`` and ``interval_by_seed`` the same for each training
        seed; ``seed_interval`` over training seeds.
    """
    change = paired_change(before, _over_seeds(after))
    by_seed = [mean(values) - mean(before) for values in after]
    return {
        "mean": change.after,
        "gain": change.difference,
        "interval": _ends(change.interval),
        "by_seed": by_seed,
        "interval_by_seed": [_ends(paired_change(before, values).interval) for values in after],
        "seed_interval": _ends(mean_interval(by_seed)),
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
