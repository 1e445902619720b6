"""The model card of a run's adapter, written from the run's files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from vader.report.comparison import Comparison, trained_rewards
from vader.report.cost import costs
from vader.report.numbers import plain
from vader.report.reading import RunData
from vader.report.summary import judged, where
from vader.spec import RunSpec
from vader.spec.reading import SpecSource

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_card(
    run: RunData, spec: RunSpec, name: str, licence: str | None, clips: Sequence[str], diffusers: bool
) -> str:
    """The card as Markdown.

    Args:
        run: what the run's folder says.
        spec: its spec.
        name: ``owner/name`` of the repository.
        licence: identifier of the adapter's licence, as the hub writes it; None where none is named.
        clips: prompts of the rows of ``clips.gif``; empty without it.
        diffusers: whether the folder holds the layout that diffusers loads.
    """
    comparison, summary = judged(run)
    scores = comparison.scores if comparison and comparison.after else ()
    return _template().render(
        title=name.split("/")[1],
        name=name,
        base=base_model(spec),
        backbone=spec.backbone.name,
        rewards=list(trained_rewards(run)) or ["no reward"],
        method=spec.method.name,
        steps=_kept_step(run, comparison),
        summary=summary,
        clips=list(clips),
        diffusers=diffusers,
        dtype={"bf16": "bfloat16", "fp16": "float16"}.get(spec.train.mixed_precision, "float32"),
        scores=scores,
        pairs=len(comparison.pairs) if comparison else 0,
        where=where(run),
        held_out=any(score.role == "held-out" for score in scores),
        facts=list(_facts(run, spec)),
        licence=licence,
    )


def base_model(spec: RunSpec) -> str | None:
    """The hub's name of the base model: the backbone's option ``weights``, or its default; None for a local folder."""
    from vader.resolve.components import ComponentResolver

    options = dict(spec.backbone.options)
    resolver = ComponentResolver(SpecSource({}), [])
    resolver.load("backbone", ("backbone",), spec.backbone.name, options)
    found = resolver.found.get(("backbone",))
    said = getattr(found.options, "weights", None) if found is not None else options.get("weights")
    whole = isinstance(said, str) and _HUB_ID.fullmatch(said) and not Path(said).exists()
    return str(said) if whole else None


def _kept_step(run: RunData, comparison: Comparison | None) -> int:
    """Optimizer steps of the adapter that was kept."""
    stopped = run.spec is not None and run.spec.train.early_stop is not None
    return comparison.after.step if stopped and comparison and comparison.after else run.step


def _facts(run: RunData, spec: RunSpec) -> Iterator[tuple[str, str]]:
    train, window, adapter = spec.train, spec.gradient, spec.backbone.adapter
    yield "Adapter", f"rank {adapter.rank}, alpha {adapter.alpha or adapter.rank:g}"
    for key, reward in trained_rewards(run).items():
        target = f", target {plain(reward.target)}" if reward.target is not None else ""
        yield f"Reward `{key}`", f"{reward.name}, weight {reward.weight:g}{target}"
    sampler = f"{spec.sampler.name or 'the default sampler'}, {spec.sampler.steps} steps"
    yield "Sampler", f"{sampler}, guidance scale {spec.sampler.guidance_scale:g}"
    yield "Gradient window", window.mode if window.k is None else f"{window.mode}, {window.k} steps"
    yield "Learning rate", f"{train.learning_rate:g}"
    yield "Clips in an optimizer step", f"{train.batch_size * train.gradient_accumulation} in each process"
    yield "Precision", "float32" if train.mixed_precision == "no" else train.mixed_precision
    yield from costs(run)
    if run.environment.get("device"):
        yield "Device", f"{run.environment['device']}"
    versions = run.environment.get("versions")
    if isinstance(versions, dict):
        yield "Versions", ", ".join(f"{key} {value}" for key, value in versions.items() if key in _VERSIONS)


_VERSIONS = ("vader-core", "torch", "diffusers", "peft")


@cache
def _template() -> Template:
    environment = Environment(
        loader=FunctionLoader(lambda name: files("vader.sharing").joinpath(name).read_text(encoding="utf-8")),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _code, "text": _text, "cell": _cell}
    return environment.get_template("card.md")


def _code(text: str) -> str:
    """A user's text as code, on one line."""
    shown = " ".join(text.split()).replace("`", "'")
    return f"`{shown}`"


def _text(text: str) -> str:
    """A sentence with nothing in it that Markdown or HTML would obey."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    """A text in a table, where backticks may stand."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
