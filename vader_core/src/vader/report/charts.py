"""Curves as inline SVG, coloured by the style sheet so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vader.report.axis import Axis, step_axis, value_axis
from vader.report.numbers import plain, short
from vader.report.statistics import Interval, mean

WIDTH, HEIGHT = 360.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 350.0, 10.0, 164.0
MOST_POINTS = 300
"""A longer curve is drawn as means of neighbouring optimizer steps."""
MOST_TIPS = 120
"""Up to so many points say their value under the mouse."""


@dataclass(frozen=True)
class Point:
    """A value after an optimizer step, with its confidence interval if there is one."""

    step: float
    value: float
    interval: Interval | None = None


@dataclass(frozen=True)
class Chart:
    """A drawn curve."""

    title: str
    note: str
    """First and last value, for the eye and for screen readers."""
    svg: Markup


def training_chart(
    title: str,
    series: Sequence[tuple[float, float]],
    skipped: Sequence[float] = (),
    *,
    log: bool = False,
    exact: bool = False,
) -> Chart:
    """The course of a metric over optimizer steps: every value, faint, and their moving average.

    Args:
        title: name of the metric.
        series: (step, value), ascending, at least one.
        skipped: steps to mark as skipped.
        log: whether the value axis may be logarithmic.
        exact: draw the values alone, for what carries no noise.
    """
    points = [Point(step, value) for step, value in _thin(series)]
    values = [point.value for point in points]
    smooth = values if exact else moving_average(values)
    last = max(series[-1][0], *skipped, 0.0) if skipped else series[-1][0]
    x = step_axis(last, LEFT, RIGHT)
    y = value_axis(values, BOTTOM, TOP, log=log)
    course = [Point(point.step, value) for point, value in zip(points, smooth, strict=True)]
    body = [
        _grid(x, y),
        *(Markup('<line class="skip" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(_at(x, step), BOTTOM - 7, BOTTOM)
          for step in skipped),
        _line(points, x, y, "raw"),
        _line(course, x, y, "curve"),
        _tips(points, x, y, dots=len(points) < 3) if len(points) <= MOST_TIPS else Markup(""),
    ]  # fmt: skip
    note = plain(smooth[0]) if len(points) == 1 else f"{_brief(smooth[0])} \N{RIGHTWARDS ARROW} {_brief(smooth[-1])}"
    return _chart(title, note, body)


def validation_chart(title: str, points: Sequence[Point], *, percent: bool = False) -> Chart:
    """The mean of a score at each validation, with the band of its 95 % confidence interval.

    Args:
        title: name of the score.
        points: ascending, at least one.
        percent: the values are shares, drawn from 0 to 100 %.
    """
    bounds = [bound for p in points for bound in (p.value, *((p.interval.low, p.interval.high) if p.interval else ()))]
    x = step_axis(points[-1].step, LEFT, RIGHT - 6)
    y = Axis(0.0, 1.0, BOTTOM, TOP) if percent else value_axis(bounds, BOTTOM, TOP)
    body = [
        _grid(x, y, percent=percent),
        _band([point for point in points if point.interval], x, y),
        _line(points, x, y, "curve"),
        _tips(points, x, y, dots=True, percent=percent),
    ]
    ends = [_percent(point.value) if percent else _brief(point.value) for point in (points[0], points[-1])]
    return _chart(title, ends[0] if len(points) == 1 else f"{ends[0]} \N{RIGHTWARDS ARROW} {ends[1]}", body)


def overlay_chart(
    title: str, courses: Sequence[tuple[int, Sequence[Point]]], *, dots: bool, percent: bool = False
) -> Chart:
    """The courses of several runs over each other.

    Args:
        title: what they are courses of.
        courses: each with the number of its colour; at least one, each of at least one point.
        dots: mark every point.
        percent: the values are shares, drawn from 0 to 100 %.
    """
    points = [point for _, course in courses for point in course]
    x = step_axis(max(point.step for point in points), LEFT, RIGHT - 6)
    y = Axis(0.0, 1.0, BOTTOM, TOP) if percent else value_axis([point.value for point in points], BOTTOM, TOP)
    body = [_grid(x, y, percent=percent)]
    for colour, course in courses:
        marks = _tips(course, x, y, dots=dots or len(course) < 3, percent=percent) if len(course) <= MOST_TIPS else ""
        body.append(Markup('<g class="series-{}">{}{}</g>').format(colour, _line(course, x, y, "curve"), marks))
    return _chart(title, f"{len(courses)} runs", body)


def smoothed(series: Sequence[tuple[float, float]]) -> list[Point]:
    """The moving average of a training metric, thinned to what can be drawn."""
    thin = _thin(series)
    values = moving_average([value for _, value in thin])
    return [Point(step, value) for (step, _), value in zip(thin, values, strict=True)]


def interval_mark(low: float, middle: float, high: float, edges: tuple[float, float]) -> Markup:
    """A difference with its interval on an axis that goes from one edge to the other; zero is marked."""
    x = Axis(*edges, start=4.0, end=136.0)
    return Markup(
        '<svg class="mark" viewBox="0 0 140 18" aria-hidden="true">'
        '<line class="zero" x1="{0}" x2="{0}" y1="1" y2="17"/>'
        '<line class="span" x1="{1}" x2="{2}" y1="9" y2="9"/><circle cx="{3}" cy="9" r="4"/></svg>'
    ).format(*(_at(x, value) for value in (0.0, low, high, middle)))


def moving_average(values: Sequence[float]) -> list[float]:
    """Centred mean over about a tenth of the curve; the window shrinks at the ends."""
    reach = max(1, len(values) // 20) if len(values) > 4 else 0
    return [mean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]


def _thin(series: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    group = -(-len(series) // MOST_POINTS)
    chunks = [series[i : i + group] for i in range(0, len(series), group)]
    return [(chunk[-1][0], mean([value for _, value in chunk])) for chunk in chunks]


def _chart(title: str, note: str, body: Sequence[Markup]) -> Chart:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        f"{WIDTH:g}", f"{HEIGHT:g}", f"{title} over optimizer steps: {note}"
    )
    return Chart(title, note, head + Markup("").join(body) + Markup("</svg>"))


def _grid(x: Axis, y: Axis, *, percent: bool = False) -> Markup:
    parts = []
    for value, label in zip(y.ticks, y.labels(percent=percent), strict=True):
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/><text x="{}" y="{y}" dy="3.5">{}</text>'
            ).format(f"{LEFT:g}", f"{RIGHT:g}", f"{LEFT - 6:g}", label, y=_at(y, value))
        )
    for value, label in zip(x.ticks, x.labels(), strict=True):
        if value == int(value):
            text = Markup('<text class="step" x="{}" y="{}">{}</text>')
            parts.append(text.format(_at(x, value), f"{BOTTOM + 17:g}", label))
    return Markup("").join(parts)


def _line(points: Sequence[Point], x: Axis, y: Axis, style: str) -> Markup:
    places = " ".join(f"{_at(x, point.step)},{_at(y, point.value)}" for point in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, places)


def _band(points: Sequence[Point], x: Axis, y: Axis) -> Markup:
    """The area between the ends of the intervals, and a whisker at each point."""
    there = [(point.step, point.interval.high) for point in points if point.interval]
    back = [(point.step, point.interval.low) for point in reversed(points) if point.interval]
    area = " ".join(f"{_at(x, step)},{_at(y, value)}" for step, value in [*there, *back])
    whiskers = [
        Markup('<line class="whisker" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            _at(x, step), _at(y, high), _at(y, low)
        )
        for (step, high), (_, low) in zip(there, reversed(back), strict=True)
    ]
    return Markup('<polygon class="band" points="{}"/>').format(area) + Markup("").join(whiskers)


def _tips(points: Sequence[Point], x: Axis, y: Axis, *, dots: bool, percent: bool = False) -> Markup:
    """Points that tell step and value under the mouse; invisible unless ``dots``."""

    def value_text(value: float) -> str:
        return _percent(value) if percent else _brief(value)

    parts = []
    for point in points:
        tip = f"step {point.step:g}: {value_text(point.value)}"
        if point.interval:
            tip += f" (95 % CI {value_text(point.interval.low)} to {value_text(point.interval.high)})"
        circle = Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>')
        style, radius = ("dot", 3.5) if dots else ("tip", 5)
        parts.append(circle.format(style, _at(x, point.step), _at(y, point.value), radius, tip))
    return Markup("").join(parts)


def _at(axis: Axis, value: float) -> str:
    return f"{axis.place(value):.1f}"


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def _brief(value: float) -> str:
    """Readable from a learning rate to a thousandfold loss."""
    return plain(value) if abs(value) >= 0.01 else short(float(f"{value:.2g}"))
