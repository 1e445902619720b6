"""The tables of the results, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.align.figures import ACCURACY, REWARD, kl_points
from benchmarks.align.running import HELD_CLIPS

from vader.runs.image_statistics import STATISTICS


def tables(data: Mapping[str, Any]) -> dict[str, str]:
    """Markdown tables by name."""
    made = {"main": _main(data)}
    if any(variant["curve"] for variant in data["variants"].values()):
        made["course"] = _course(data)
    if kl_points(data):
        made["kl"] = _kl(data)
    if data.get("equal_to") in data["variants"]:
        made |= {"operations": _beside(data), "seconds": _equal(data, _at_seconds)}
        if "by_kind" in data["base"]:
            made["kinds"] = _by_kind(data)
    return made


def _by_kind(data: Mapping[str, Any]) -> str:
    """After the reference's operations: accuracy by kind of prompt, the alarm, and what an optimizer step takes."""
    kinds: Mapping[str, float] = data["base"]["by_kind"]
    head = ["variant", *kinds, "left the base's range", f"MB, {HELD_CLIPS} clips", "GFLOP a step"]
    rows = [["*base model*", *(f"{share:.1%}" for share in kinds.values()), "", "", ""]]
    for name, variant in data["variants"].items():
        point = _at_operations(data, name)
        changes = [point["by_kind"][kind] for kind in kinds]
        held, operations = variant["held"], variant["operations_per_query"]
        rows.append(
            [
                variant["title"],
                *(f"{change['gain'] * 100:+.1f} {_bounds(change['interval'], 100)}" for change in changes),
                _alarm(point["alarms"]),
                "" if held is None else f"{held / 1e6:.0f}",
                "" if operations is None else f"{operations * variant['queries_per_step'] / 1e9:.1f}",
            ]
        )
    return _table(head, rows)


def _alarm(by_seed: Sequence[Sequence[str]]) -> str:
    """The statistics that left their range, with how many of the training seeds."""
    counts = {name: sum(name in seed for seed in by_seed) for name in STATISTICS}
    return ", ".join(f"{name} ({count} of {len(by_seed)})" for name, count in counts.items() if count) or "none"


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
    """Every variant after the reference's operations, and its scores beside the reference's, paired over clips."""
    title = data["variants"][data["equal_to"]]["title"]
    head, ruler, *rows = _equal(data, _at_operations).splitlines()
    more = []
    for variant in data["variants"].values():
        reward, accuracy = variant["beside"][REWARD], variant["beside"][ACCURACY]
        points = f"{accuracy['gain'] * 100:+.1f} {_bounds(accuracy['interval'], 100)}"
        more.append(f"{_with_interval(reward)} | {points}")
    rows = [f"{row} {said} |" for row, said in zip(rows, more, strict=True)]
    head += f" reward, less that of {title} [95 % CI] | accuracy, less that of {title} |"
    return "\n".join([head, f"{ruler} --- | --- |", *rows])


def _equal(data: Mapping[str, Any], at: Callable[[Mapping[str, Any], str], Mapping[str, Any]]) -> str:
    """Every variant after as much of something as the reference took."""
    head = ["variant", "queries", "reward gain [95 % CI]", "by seed", "exact accuracy", "diversity"]
    rows = []
    for name, variant in data["variants"].items():
        point = at(data, name)
        figures = _figures(point, variant, data["base"], point["queries"])
        rows.append([variant["title"], str(point["queries"]), *figures[:4], *figures[5:]])
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


def _course(data: Mapping[str, Any]) -> str:
    """Every milestone of the variants whose course is drawn."""
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
        if not variant["curve"]:
            continue
        for point in variant["points"].values():
            figures = _figures(point, variant, data["base"], point["queries"])
            rows.append(
                [
                    variant["title"],
                    str(point["queries"]),
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
