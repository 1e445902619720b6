"""The report of a latent reward: ``report.json`` with its figures, ``report.html`` to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vader.report.charts import Chart, Point, training_chart, validation_chart
from vader.report.numbers import plain
from vader.reward_training.judging import AGREEMENT, Judgement
from vader.reward_training.spec import RewardTrainSpec
from vader.storage import write_json, write_text

JSON, HTML = "report.json", "report.html"


def write_page(
    folder: Path,
    spec: RewardTrainSpec,
    judgements: Sequence[Judgement],
    losses: Sequence[float],
    cosine: float | None,
) -> None:
    """Write both files."""
    data: dict[str, Any] = {
        "loss": spec.loss,
        "agreement": AGREEMENT[spec.loss],
        "by_timestep": [asdict(one) for one in judgements],
    }
    data["gradient_cosine"] = cosine
    write_json(folder / JSON, {**data, "losses": [round(loss, 6) for loss in losses]})
    name = folder.resolve().name
    charts = [
        validation_chart(AGREEMENT[spec.loss], [Point(one.timestep, one.agreement) for one in judgements]),
        validation_chart("calibration error", [Point(one.timestep, one.calibration or 0.0) for one in judgements]),
        training_chart("loss", list(enumerate(losses, 1))),
    ]
    page = Markup(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title><style>{css}</style></head>'
        "<body><main><h1>Latent reward {name}</h1>{head}<h2>Held-out clips by timestep</h2>"
        "<p>At timestep 0 clips are clean.</p>{table}<h2>Curves</h2><p>The first two over the timestep.</p>"
        '<div class="charts">{charts}</div><h2>Calibration of clean clips</h2>{bins}<h2>Spec</h2><pre>{spec}</pre>'
        "</main></body></html>"
    ).format(
        name=name,
        css=Markup(files("vader.report").joinpath("report.css").read_text(encoding="utf-8")),
        head=_head(spec, cosine),
        table=_table(spec, judgements),
        charts=Markup("").join(_figure(chart) for chart in charts),
        bins=_rows(("the reward says", "it is"), [(plain(said), plain(true)) for said, true in judgements[0].bins]),
        spec=spec.model_dump_json(indent=2),
    )
    write_text(folder / HTML, str(page))


def _head(spec: RewardTrainSpec, cosine: float | None) -> Markup:
    taught = f"distilled from {spec.reward.key}" if spec.reward is not None else "from the labels of its clips"
    said = f" Its gradient at clean clips has a mean cosine of {cosine:.3f} with that reward's." if cosine else ""
    return Markup("<p>{} layers of {}, {}, by {}.{}</p>").format(
        spec.network.layers, spec.backbone.name, taught, spec.loss.replace("_", " "), said
    )


def _table(spec: RewardTrainSpec, judgements: Sequence[Judgement]) -> Markup:
    ranked = spec.loss == "regression"
    own = judgements[0].own is not None
    head = ["timestep", AGREEMENT[spec.loss], *["of own prompts"] * own, *["rank correlation"] * ranked]
    head.append("calibration error")
    rows = []
    for one in judgements:
        numbers = (one.agreement, *[one.own] * own, *[one.rank] * ranked, one.calibration)
        rows.append([f"{one.timestep:g}", *("" if value is None else f"{value:.3f}" for value in numbers)])
    return _rows(head, rows)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    top = Markup("").join(Markup("<th>{}</th>").format(cell) for cell in head)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row))
        for row in rows
    )
    return Markup("<table><tr>{}</tr>{}</table>").format(top, body)


def _figure(chart: Chart) -> Markup:
    return Markup("<figure><figcaption>{} <small>{}</small></figcaption>{}</figure>").format(
        chart.title, chart.note, chart.svg
    )
