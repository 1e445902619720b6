"""The plots, as SVG: curves with intervals, a dot for each variant, and the curve of KL weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.align.figures import ACCURACY, REWARD, kl_points

from vader.report.axis import Axis, value_axis

COLOURS = ("#3f51b5", "#d84315", "#00796b", "#8e24aa", "#f9a825", "#5d4037", "#00acc1", "#d81b60")
WIDTH, WITH_LEGEND, HEIGHT = 560.0, 720.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 540.0, 40.0, 290.0
_STYLE = "font-family:system-ui,sans-serif;font-size:12px;background:#fff"


@dataclass(frozen=True)
class Dot:
    """A point with its interval upwards."""

    x: float
    y: float
    low: float
    high: float
    label: str = ""


def draw(data: Mapping[str, Any]) -> dict[str, str]:
    """Every plot by name."""
    shown = {
        "queries": ("reward queries", _queries),
        "cpu": ("seconds of one processor", _cpu),
        "wall": ("seconds of wall timer", _wall),
        "operations": ("TFLOP (10^12 floating-point operations)", _operations),
    }
    made = {}
    for name, (label, place) in shown.items():
        for metric, said in ((REWARD, "reward"), (ACCURACY, "accuracy")):
            series = _courses(data, metric, place)
            if not series:
                continue
            gain = "gain in reward" if metric == REWARD else "gain in exact accuracy"
            made[f"{said}-{name}"] = _curves(f"{gain}, beside the base model", label, gain, series, log=True)
    kl = _kl(data)
    if kl:
        made["kl"] = _curves(
            "closeness against reward: KL weights", "divergence from the base", "gain in reward", kl, log=True
        )
    made["variants"] = _dots(data)
    return made


def _queries(variant: Mapping[str, Any], queries: str) -> float:
    return float(queries)


def _cpu(variant: Mapping[str, Any], queries: str) -> float:
    return float(variant["points"][queries]["cpu"])


def _wall(variant: Mapping[str, Any], queries: str) -> float:
    return float(variant["points"][queries]["wall"])


def _operations(variant: Mapping[str, Any], queries: str) -> float:
    return float(variant["operations_per_query"] or 0.0) * int(queries) / 1e12


def _courses(data: Mapping[str, Any], metric: str, place: Any) -> dict[str, list[Dot]]:
    found = {}
    for variant in data["variants"].values():
        if variant["curve"]:
            dots = [_dot(place(variant, queries), point[metric]) for queries, point in variant["points"].items()]
            found[variant["title"]] = [dot for dot in dots if dot.x > 0]
    return {title: dots for title, dots in found.items() if dots}


def _dot(x: float, change: Mapping[str, Any], label: str = "") -> Dot:
    low, high = change["interval"]
    return Dot(x, change["gain"], low, high, label)


def _kl(data: Mapping[str, Any]) -> dict[str, list[Dot]]:
    dots = [_dot(point["divergence"], point[REWARD], f"{weight:g}") for weight, _, point in kl_points(data)]
    return {"KL weight": dots} if dots else {}


def _curves(title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[Dot]], *, log: bool) -> str:
    """Lines with whiskers over a logarithmic axis."""
    every = [dot for dots in series.values() for dot in dots]
    xs = [dot.x for dot in every]
    x = Axis(min(xs) / 1.25, max(xs) * 1.25, LEFT, RIGHT, log=log)
    y = value_axis([0.0, *(bound for dot in every for bound in (dot.low, dot.high))], BOTTOM, TOP)
    body = [_frame(x, y, x_label, y_label)]
    for index, (name, dots) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        places = " ".join(f"{x.place(dot.x):.1f},{y.place(dot.y):.1f}" for dot in dots)
        body.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [_whisker(x, y, dot, colour) for dot in dots]
        if len(series) > 1:
            height = TOP + 6 + 18 * index
            body.append(f'<rect x="{RIGHT + 14}" y="{height}" width="10" height="10" fill="{colour}"/>')
            body.append(_text(RIGHT + 30, height + 9, name))
    return _svg(title, body, HEIGHT, WITH_LEGEND if len(series) > 1 else WIDTH)


def _dots(data: Mapping[str, Any]) -> str:
    """One line for each variant: its gain after the common budget."""
    queries = str(data["queries"])
    rows = [(variant["title"], variant["points"][queries][REWARD]) for variant in data["variants"].values()]
    left, height = 275.0, TOP + 22.0 * len(rows) + 50
    bounds = [bound for _, change in rows for bound in change["interval"]]
    x = value_axis([0.0, *bounds], left, RIGHT)
    bottom = TOP + 22.0 * len(rows)
    body = [
        f'<line x1="{x.place(tick):.1f}" x2="{x.place(tick):.1f}" y1="{TOP}" y2="{bottom}" stroke="#ddd"/>'
        + _text(x.place(tick), bottom + 16, label, "middle")
        for tick, label in zip(x.ticks, x.labels(), strict=True)
    ]
    for index, (name, change) in enumerate(rows):
        middle = TOP + 22.0 * index + 11
        low, high = (x.place(bound) for bound in change["interval"])
        body.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="{COLOURS[0]}"/>')
        body.append(f'<circle cx="{x.place(change["gain"]):.1f}" cy="{middle}" r="4" fill="{COLOURS[0]}"/>')
        body.append(_text(left - 8, middle + 4, name, "end"))
    body.append(_text((left + RIGHT) / 2, bottom + 36, "gain in reward, beside the base model", "middle"))
    return _svg(f"every variant after {queries} reward queries", body, height)


def _whisker(x: Axis, y: Axis, dot: Dot, colour: str) -> str:
    place = f"{x.place(dot.x):.1f}"
    line = (
        f'<line x1="{place}" x2="{place}" y1="{y.place(dot.low):.1f}" y2="{y.place(dot.high):.1f}" stroke="{colour}"/>'
    )
    mark = f'<circle cx="{place}" cy="{y.place(dot.y):.1f}" r="3.5" fill="{colour}"/>'
    return line + mark + (_text(x.place(dot.x) + 7, y.place(dot.y) + 14, dot.label) if dot.label else "")


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    parts = []
    for tick, label in zip(y.ticks, y.labels(), strict=True):
        height, colour = y.place(tick), "#999" if tick == 0 else "#ddd"
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="{colour}"/>')
        parts.append(_text(LEFT - 6, height + 4, label, "end"))
    for tick in _log_ticks(x):
        parts.append(
            f'<line x1="{x.place(tick):.1f}" x2="{x.place(tick):.1f}" y1="{TOP}" y2="{BOTTOM}" stroke="#eee"/>'
        )
        parts.append(_text(x.place(tick), BOTTOM + 16, f"{tick:g}", "middle"))
    parts.append(_text((LEFT + RIGHT) / 2, BOTTOM + 38, x_label, "middle"))
    middle = (TOP + BOTTOM) / 2
    turned = (
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(y_label)}</text>'
    )
    return "".join(parts) + turned


def _log_ticks(axis: Axis) -> list[float]:
    """1, 2 and 5 times the powers of ten within an axis."""
    candidates = [factor * 10.0**power for power in range(-9, 10) for factor in (1, 2, 5)]
    return [value for value in candidates if axis.low <= value <= axis.high]


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, body: Sequence[str], height: float, width: float = WIDTH) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" style="{_STYLE}">'
    name = f'<title>{escape(title)}</title><rect width="{width:g}" height="{height:g}" fill="#fff"/>'
    shown = f'<text x="{WIDTH / 2:g}" y="22" text-anchor="middle" font-weight="600">{escape(title)}</text>'
    return head + name + shown + "".join(body) + "</svg>\n"
