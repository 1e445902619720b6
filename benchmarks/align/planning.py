"""What the benchmark runs: plan.yaml, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from vader import Options

HERE = Path(__file__).parent


class GridOptions(Options):
    """The clips of an evaluation."""

    prompts: int = Field(ge=2)
    seeds: int = Field(ge=2)


class VariantOptions(Options):
    """A method with its settings."""

    title: str
    spec: dict[str, Any]
    curve: bool = Field(False, description="Draw its course.")
    kl: bool = Field(False, description="A point of the curve of KL weights.")
    rate_of: str | None = Field(
        None, description="Variant whose learning rate it has; a sweep leaves it out. Null: it is swept itself."
    )


class SweepOptions(Options):
    """How the learning rates are chosen: the same few for every variant, with fewer queries."""

    queries: int = Field(ge=1)
    seed: int = Field(description="Of the training; the comparison has others.")
    rates: tuple[float, ...] = Field(min_length=1)
    base: dict[str, Any] = Field(default_factory=dict, description="Changes of the plan's base.")


class PlanOptions(Options):
    """plan.yaml."""

    queries: int = Field(ge=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    milestones: tuple[int, ...] = Field(min_length=1)
    evaluation: GridOptions
    equal_to: str | None = Field(
        None,
        description="Variant whose operations and seconds in the common number of queries are budgets too: each "
        "variant is also evaluated after as many operations. Null: queries alone.",
    )
    base: dict[str, Any] = Field(description="The run spec that all share, without `output`.")
    sweep: SweepOptions | None = Field(None, description="What `--sweep` runs. Null: it is refused.")
    variants: dict[str, VariantOptions]


@dataclass(frozen=True)
class Run:
    """One variant with one training seed.

    Args:
        name: of the variant.
        seed: of the training.
        spec: whole, without ``output``.
        milestones: queries -> optimizer steps, ascending; the last ends the run.
    """

    name: str
    seed: int
    spec: dict[str, Any]
    milestones: dict[int, int]

    @property
    def folder(self) -> str:
        """Its folder's name."""
        return f"{self.name}-{self.seed}"

    @property
    def queries(self) -> int:
        """Reward queries of the whole run."""
        return max(self.milestones)


@dataclass(frozen=True)
class Plan:
    """The benchmark, whole.

    Args:
        options: of the plan.
        equal: by variant, the queries after which it has taken the operations of ``equal_to``, as far as known.
        swept: of a sweep, by the plan's variant, the sweep's variants and their rates.
    """

    options: PlanOptions
    equal: Mapping[str, int] = field(default_factory=dict)
    swept: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def runs(self) -> list[Run]:
        """Every run, seed by seed, the longest first."""
        found = [self.run(name, seed) for name in self.options.variants for seed in self.options.seeds]
        return sorted(found, key=lambda run: (run.seed, -run.queries))

    def run(self, name: str, seed: int) -> Run:
        """A variant with a seed.

        Raises:
            ValueError: a milestone is no whole number of optimizer steps, or a checkpoint is not what the run keeps.
        """
        options = self.options
        variant = options.variants[name]
        spec = merged(options.base, variant.spec)
        if variant.rate_of is not None:
            swept = merged(options.base, options.variants[variant.rate_of].spec)
            spec = merged(spec, {"train": {"learning_rate": swept["train"]["learning_rate"]}})
        for key in ("ema_decay", "early_stop"):
            if spec["train"].get(key) is not None:
                raise ValueError(
                    f"variant {name}: train.{key} keeps other weights than those of checkpoints, which milestones "
                    "evaluate. Take it out."
                )
        queries = {options.queries, *options.milestones} | ({self.equal[name]} if name in self.equal else set())
        clips, steps = clips_per_step(spec), {}
        for milestone in sorted(queries):
            if milestone % clips:
                raise ValueError(
                    f"variant {name}: {milestone} queries are no whole number of steps of {clips} queries."
                )
            steps[milestone] = round(milestone / clips)
        train = {"seed": seed, "steps": steps[max(queries)], "checkpoint_every": math.gcd(*steps.values())}
        return Run(name, seed, merged(spec, {"train": train}), steps)


def sweep(plan: Plan) -> Plan:
    """The plan that chooses the learning rates: every variant that has one of its own, with every rate.

    Raises:
        ValueError: the plan says no sweep.
    """
    options = plan.options.sweep
    if options is None:
        raise ValueError("the plan has no section `sweep`: add its queries, seed and rates.")
    own = {name: variant for name, variant in plan.options.variants.items() if variant.rate_of is None}
    rates = {name: {f"{name}_{rate:g}": rate for rate in options.rates} for name in own}
    variants = {
        swept: VariantOptions(
            title=f"{variant.title}, {rate:g}", spec=merged(variant.spec, {"train": {"learning_rate": rate}})
        )
        for name, variant in own.items()
        for swept, rate in rates[name].items()
    }
    made = PlanOptions(
        queries=options.queries,
        seeds=(options.seed,),
        milestones=(options.queries,),
        evaluation=plan.options.evaluation,
        base=merged(plan.options.base, options.base),
        variants=variants,
    )
    return Plan(made, swept=rates)


def clips_per_step(spec: Mapping[str, Any]) -> float:
    """Reward queries of an optimizer step: each scored clip is one, and one more for the other phrase of a contrast."""
    method = spec.get("method", {})
    options = method.get("options", {})
    repeats = spec.get("gradient", {}).get("renoise") or 1
    if method.get("name") == "srpo":
        directions = 2 if options.get("direction", "both") == "both" else 1
        repeats = 2 * directions * options.get("reuse", 1)
    return float(spec["train"]["batch_size"] * repeats / updates_per_round(spec))


def updates_per_round(spec: Mapping[str, Any]) -> int:
    """Optimizer steps on the same clips."""
    method = spec.get("method", {})
    name = "reuse" if method.get("name") in ("nft", "awm", "mixgrpo") else "inner_epochs"
    return int(method.get("options", {}).get(name, 1))


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, section by section."""
    found = dict(base)
    for key, value in changes.items():
        inner = found.get(key)
        found[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return found


def load(path: Path = HERE / "plan.yaml") -> Plan:
    """Read and check a plan.

    Raises:
        ValueError: a field is wrong (pydantic's ValidationError), or a milestone does not fit.
    """
    found = Plan(PlanOptions.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))))
    found.runs()
    return found
