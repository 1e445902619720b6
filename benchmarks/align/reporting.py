"""From the runs to the results: JSON, tables and plots. Every figure of the docs comes from here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.align import plots, running
from benchmarks.align.figures import ACCURACY, REWARD, kl_points
from benchmarks.align.planning import Plan

from vader.report.statistics import Interval, mean, mean_interval, paired_change
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
    """The tables that the docs show, by name: of the results, of the sweep of learning rates, and of every method."""
    data, swept, methods = (
        tables(json.loads((where / "results.json").read_text(encoding="utf-8")))
        for where in (folder, folder / "sweep", folder / "methods")
    )
    return {**data, "sweep": swept["main"], "methods": methods["operations"]}


def with_tables(text: str, made: Mapping[str, str]) -> str:
    """A page with its tables renewed."""
    for name, table in made.items():
        parts = re.split(rf"(?<=<!-- table {name} -->\n).*?(?=<!-- end -->)", text, flags=re.DOTALL)
        text = f"\n{table}\n\n".join(parts)
    return text


def collect(plan: Plan, home: Path) -> dict[str, Any]:
    """The figures of every finished run, by variant and queries."""
    base = running.base_figures(plan, home)
    variants: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    rewards: dict[str, list[float]] = {}
    for name, options in plan.options.variants.items():
        paths = {seed: home / plan.run(name, seed).folder / running.RESULT for seed in plan.seeds(name)}
        done = {seed: json.loads(path.read_text(encoding="utf-8")) for seed, path in paths.items() if path.is_file()}
        if not done:
            continue
        environment = next(iter(done.values()))["environment"]
        if name in plan.equal:
            at = str(plan.equal[name])
            made = [one["evaluations"][at]["scores"][REWARD] for one in done.values()]
            rewards[name] = [mean(values) for values in zip(*made, strict=True)]
        counted = home / "operations" / f"{name}.json"
        variants[name] = {
            "title": options.title,
            "curve": options.curve,
            "kl": options.kl,
            "compared": options.seeds is None,
            "spec": options.spec,
            "seeds": sorted(done),
            "operations_per_query": json.loads(counted.read_text(encoding="utf-8"))["per_query"]
            if counted.is_file()
            else None,
            "points": {
                queries: _point(base, int(queries), [one["evaluations"][queries] for one in done.values()])
                for queries in next(iter(done.values()))["evaluations"]
            },
        }
    for name in rewards if plan.options.equal_to in rewards else ():
        beside = paired_change(rewards[str(plan.options.equal_to)], rewards[name])
        variants[name]["beside"] = {"gain": beside.difference, "interval": _ends(beside.interval)}
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
        },
        "variants": variants,
    }


def _point(base: Mapping[str, Any], queries: int, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A variant after some queries: means over clips and training seeds, with intervals of the change from the base."""
    return {
        "queries": mean([run.get("queries", queries) for run in runs]),
        REWARD: _change(base["scores"][REWARD], [run["scores"][REWARD] for run in runs]),
        ACCURACY: _change(base["scores"][ACCURACY], [run["scores"][ACCURACY] for run in runs]),
        "diversity": _change(base["diversity"], [run["diversity"] for run in runs]),
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
    change = paired_change(before, [mean(values) for values in zip(*after, strict=True)])
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


def tables(data: Mapping[str, Any]) -> dict[str, str]:
    """Markdown tables by name."""
    made = {"main": _main(data), "ten": _ten(data), "kl": _kl(data)}
    if data.get("equal_to") in data["variants"]:
        made |= {"operations": _beside(data), "seconds": _equal(data, _at_seconds)}
    return made


def _at_operations(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A variant's point after the reference's operations."""
    found: Mapping[str, Any] = data["variants"][name]["points"][str(data["equal"][name])]
    return found


def _at_seconds(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A variant's last point within the reference's processor seconds; its first where none is."""
    limit = data["variants"][data["equal_to"]]["points"][str(data["queries"])]["cpu"]
    points = sorted(data["variants"][name]["points"].values(), key=lambda point: float(point["queries"]))
    found: Mapping[str, Any] = ([point for point in points if point["cpu"] <= limit] or points[:1])[-1]
    return found


def _beside(data: Mapping[str, Any]) -> str:
    """Every variant after the reference's operations, and its reward beside the reference's, paired over clips."""
    title = data["variants"][data["equal_to"]]["title"]
    head, ruler, *rows = _equal(data, _at_operations).splitlines()
    more = [_with_interval(variant["beside"]) for variant in data["variants"].values()]
    rows = [f"{row} {said} |" for row, said in zip(rows, more, strict=True)]
    return "\n".join([f"{head} reward, less that of {title} [95 % CI] |", f"{ruler} --- |", *rows])


def _equal(data: Mapping[str, Any], at: Callable[[Mapping[str, Any], str], Mapping[str, Any]]) -> str:
    """Every variant after as much of something as the reference took."""
    head = ["variant", "queries", "reward gain [95 % CI]", "by seed", "exact accuracy", "diversity"]
    rows = []
    for name, variant in data["variants"].items():
        point = at(data, name)
        figures = _figures(point, variant, data["base"], point["queries"])
        rows.append([variant["title"], f"{point['queries']:.0f}", *figures[:4], *figures[5:]])
    return _table([*head, "CPU s", "TFLOP"], rows)


def _main(data: Mapping[str, Any]) -> str:
    queries, base = str(data["queries"]), data["base"]
    head = [
        "variant",
        "reward gain [95 % CI]",
        "by seed",
        "exact accuracy",
        "diversity",
        "divergence",
        "CPU s",
        "TFLOP",
    ]
    rows = [["*base model*", f"({base[REWARD]:.3f})", "", f"{base[ACCURACY]:.1%}", "100 %", "0", "", ""]]
    for variant in data["variants"].values():
        if variant["compared"]:
            rows.append([variant["title"], *_figures(variant["points"][queries], variant, base, data["queries"])])
    return _table(head, rows)


def _figures(
    point: Mapping[str, Any], variant: Mapping[str, Any], base: Mapping[str, Any], queries: float
) -> list[str]:
    operations, accuracy = variant["operations_per_query"], point[ACCURACY]
    return [
        _with_interval(point[REWARD]),
        ", ".join(f"{gain:+.3f}" for gain in point[REWARD]["by_seed"]),
        f"{accuracy['mean']:.1%} ({accuracy['gain'] * 100:+.1f} {_bounds(accuracy['interval'], 100)})",
        _share(point["diversity"], base["diversity"]),
        f"{point['divergence']:.2g}",
        f"{point['cpu']:.0f}",
        "" if operations is None else f"{operations * queries / 1e12:.2f}",
    ]


def _ten(data: Mapping[str, Any]) -> str:
    head = [
        "variant",
        "queries",
        "reward gain [95 % CI]",
        "by seed",
        "95 % CI over seeds",
        "exact accuracy",
        "diversity",
        "divergence",
    ]
    rows = []
    for variant in data["variants"].values():
        if max(map(int, variant["points"])) == data["queries"]:
            continue
        for point in variant["points"].values():
            figures = _figures(point, variant, data["base"], point["queries"])
            rows.append(
                [
                    variant["title"],
                    f"{point['queries']:.0f}",
                    figures[0],
                    figures[1],
                    _bounds(point[REWARD]["seed_interval"]),
                    *figures[2:5],
                ]
            )
    return _table(head, rows)


def _kl(data: Mapping[str, Any]) -> str:
    head = ["KL weight", "divergence", "reward gain [95 % CI]", "exact accuracy", "diversity"]
    rows = []
    for weight, variant, point in kl_points(data):
        figures = _figures(point, variant, data["base"], data["queries"])
        rows.append([f"{weight:g}", figures[4], figures[0], figures[2], figures[3]])
    return _table(head, rows)


def _with_interval(change: Mapping[str, Any]) -> str:
    return f"{change['gain']:+.3f} {_bounds(change['interval'])}"


def _bounds(ends: Sequence[float] | None, scale: float = 1.0) -> str:
    if ends is None:
        return ""
    places = 3 if scale == 1 else 1
    return f"[{ends[0] * scale:+.{places}f}, {ends[1] * scale:+.{places}f}]"


def _share(change: Mapping[str, Any], base: float) -> str:
    """A figure as a share of the base's, with its interval."""
    low, high = (1 + end / base for end in change["interval"])
    return f"{1 + change['gain'] / base:.0%} [{low * 100:.0f}, {high * 100:.0f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
