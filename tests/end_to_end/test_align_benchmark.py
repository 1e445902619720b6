"""The alignment benchmark: a toy plan from end to end, and its committed results against the docs."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmarks.align import planning, plots, reporting, running, tables
from benchmarks.align.__main__ import count_all, run_all
from benchmarks.align.figures import ACCURACY, REWARD, kl_points

import vader
from vader.report.statistics import mean
from vader.runs.folder import RunFolder
from vader.runs.image_statistics import STATISTICS

HERE = Path(__file__).resolve().parents[2]
COMMITTED = HERE / "benchmarks" / "align" / "results"
TOY = """
queries: 8
seeds: [1]
milestones: [4, 8]
equal_to: tail
evaluation: {prompts: 2, seeds: 2}
base:
  backbone: {name: shapes, adapter: {rank: 4}}
  sampler: {steps: 2, guidance_scale: 1.0}
  prompts: {name: shapes}
  rewards: [shapes_alignment]
  train: {batch_size: 4, learning_rate: 2e-3}
  validation: {prompts: {name: shapes, options: {split: held_out}}, rewards: [shapes_accuracy], clips: 0}
variants:
  tail:
    title: both steps
    curve: true
    kl: true
    spec: {gradient: {mode: tail, k: 2}, method: {name: reward_gradient, options: {kl_weight: 1.0}}}
  dpo: {title: DPO, curve: true, spec: {method: {name: dpo}}}
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[planning.Plan, Path]:
    folder = tmp_path_factory.mktemp("align")
    (folder / "plan.yaml").write_text(TOY, encoding="utf-8")
    plan = running.equalised(planning.load(folder / "plan.yaml"), folder / "runs")
    run_all(plan, folder / "runs", jobs=1)
    count_all(plan, folder / "runs", jobs=1)
    return plan, folder


@pytest.mark.slow
def test_a_toy_plan_gives_figures_table_and_plots(toy: tuple[planning.Plan, Path]) -> None:
    plan, folder = toy
    table = reporting.write(plan, folder / "runs", folder / "results", None)
    data = json.loads((folder / "results" / "results.json").read_text(encoding="utf-8"))
    assert set(data["variants"]) == {"tail", "dpo"}
    assert list(data["variants"]["dpo"]["points"]) == ["4", "8", str(plan.equal["dpo"])]
    assert data["variants"]["tail"]["beside"][REWARD]["gain"] == 0.0
    by_kind, point = data["base"]["by_kind"], data["variants"]["tail"]["points"]["8"]
    assert by_kind
    assert set(point["by_kind"]) == set(by_kind)
    assert [set(seed) <= set(STATISTICS) for seed in point["alarms"]] == [True]
    assert data["variants"]["tail"]["held"] > 1e6
    found = point[REWARD]
    raw = json.loads((folder / "runs" / "tail-1" / "result.json").read_text(encoding="utf-8"))
    base = json.loads((folder / "runs" / "base.json").read_text(encoding="utf-8"))
    gain = mean(raw["evaluations"]["8"]["scores"][REWARD]) - mean(base["scores"][REWARD])
    assert gain != 0.0
    assert found["gain"] == pytest.approx(gain)
    assert found["interval"][0] < gain < found["interval"][1]
    assert f"| both steps | {gain:+.3f} [" in table
    made = {path.name for path in (folder / "results").glob("*.svg")}
    assert {"reward-queries.svg", "reward-operations.svg", "accuracy-cpu.svg", "kl.svg", "variants.svg"} <= made


@pytest.mark.slow
def test_operations_are_counted(toy: tuple[planning.Plan, Path]) -> None:
    """Backward through two steps, recomputed, costs more than making clips; both cost more than nothing."""
    plan, folder = toy
    tail, dpo = (running.count_operations(plan, name, folder / "runs") for name in plan.options.variants)
    assert tail > dpo > 1e6
    bare = planning.Plan(plan.options)
    assert running.equalised(bare, folder / "runs", only=["dpo"]).equal == plan.equal
    assert list(running.equalised(bare, folder / "elsewhere", only=["tail"]).equal) == ["tail"]


@pytest.mark.slow
def test_a_finished_run_is_found_and_an_interrupted_one_resumed(toy: tuple[planning.Plan, Path]) -> None:
    plan, folder = toy
    home = folder / "runs"
    done, lost = home / "dpo-1" / "result.json", home / "tail-1"
    first, untouched = json.loads((lost / "result.json").read_text(encoding="utf-8")), done.stat().st_mtime_ns
    (lost / "result.json").unlink()
    shutil.rmtree(lost / "run" / "adapter")
    for step in lost.glob("run/checkpoints/step-*"):
        if step.name != "step-000001":
            shutil.rmtree(step)
    run_all(plan, home, jobs=1)
    again = json.loads((lost / "result.json").read_text(encoding="utf-8"))
    assert done.stat().st_mtime_ns == untouched
    assert len(RunFolder(lost / "run").read_metrics()) == plan.run("tail", 1).spec["train"]["steps"]
    for queries, figures in first["evaluations"].items():
        for key in ("scores", "diversity", "divergence"):
            assert again["evaluations"][queries][key] == figures[key]


@pytest.mark.slow
def test_results_of_other_settings_are_refused(toy: tuple[planning.Plan, Path]) -> None:
    plan, folder = toy
    base = planning.merged(plan.options.base, {"train": {"learning_rate": 1e-4}})
    other = planning.Plan(plan.options.model_copy(update={"base": base}))
    with pytest.raises(ValueError, match="made with other settings"):
        running.execute(other, other.run("tail", 1), folder / "runs")


@pytest.mark.parametrize(
    ("spec", "queries"),
    [
        ({"train": {"batch_size": 16}}, 16),
        ({"train": {"batch_size": 16}, "gradient": {"renoise": 2}}, 32),
        ({"train": {"batch_size": 16}, "method": {"name": "ddpo", "options": {"inner_epochs": 4}}}, 4),
        ({"train": {"batch_size": 16}, "method": {"name": "awm", "options": {"reuse": 4}}}, 4),
        ({"train": {"batch_size": 16}, "method": {"name": "flowbp", "options": {"reuse": 4}}}, 16),
        ({"train": {"batch_size": 4}, "method": {"name": "srpo", "options": {"reuse": 2}}}, 32),
        ({"train": {"batch_size": 4}, "method": {"name": "srpo", "options": {"direction": "denoising"}}}, 8),
    ],
)
def test_queries_are_scored_clips(spec: dict[str, Any], queries: float) -> None:
    assert planning.clips_per_step(spec) == queries


def test_equal_operations_are_a_milestone_of_every_variant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variant of half the operations is evaluated after twice the queries, and of twice after half."""
    counted = {"tail_2": 2.0, "last": 1.0, "full": 4.0}
    monkeypatch.setattr(running, "count_operations", lambda plan, name, home: counted.get(name, 2.0))
    plan = running.equalised(planning.load(), tmp_path)
    assert {name: plan.equal[name] for name in counted} == {"tail_2": 1600, "last": 3200, "full": 800}
    assert list(plan.run("last", 1).milestones) == [160, 640, 1600, 3200]
    assert list(plan.run("full", 1).milestones) == [160, 640, 800, 1600]
    assert all(
        10 * planning.clips_per_step(run.spec) >= 1 and plan.equal[run.name] in run.milestones for run in plan.runs()
    )
    assert "| last | 3200 | 0.00 | 3 |" in running.costs(plan, tmp_path)


def test_the_plan_of_methods_fits_and_its_sweep_changes_the_rate_alone() -> None:
    """Every run is a spec that works; variants that have another's rate are not swept."""
    plan = planning.load()
    for name in plan.options.variants:
        vader.check({**plan.run(name, 1).spec, "output": "unused"})
    swept, rates = planning.sweep(plan), plan.options.sweep and plan.options.sweep.rates
    own = [name for name, variant in plan.options.variants.items() if variant.rate_of is None]
    assert rates
    assert list(swept.options.variants) == [f"{name}_{rate:g}" for name in own for rate in rates]
    assert all(variant.rate_of in (None, *own) for variant in plan.options.variants.values())
    for run in swept.runs():
        name, rate = run.name.rsplit("_", 1)
        assert run.seed not in plan.options.seeds
        assert run.spec["train"]["learning_rate"] == float(rate)
        kept = {key: run.spec[key] for key in run.spec if key not in ("train", "validation")}
        assert kept == {key: plan.run(name, 1).spec[key] for key in kept}
        assert run.spec["train"]["batch_size"] == plan.run(name, 1).spec["train"]["batch_size"]


def test_the_rates_are_those_that_the_committed_sweep_chooses() -> None:
    plan, swept = planning.load(), json.loads((COMMITTED / "sweep" / "results.json").read_text(encoding="utf-8"))
    own = [name for name, variant in plan.options.variants.items() if variant.rate_of is None]
    assert {name: float(plan.run(name, 1).spec["train"]["learning_rate"]) for name in own} == swept["rates"]


def test_a_sweep_chooses_the_lowest_rate_within_one_standard_error_of_the_best(tmp_path: Path) -> None:
    """Differences of the best rate's clips from those of the others have a standard error of 0.5 each."""
    swept = {"a_1": 1.0, "a_2": 2.0, "a_4": 4.0}
    options = planning.load().options
    variants = dict.fromkeys(swept, options.variants["tail_2"])
    changed = {"queries": 16, "milestones": (16,), "seeds": (100,), "variants": variants}
    plan = planning.Plan(options.model_copy(update=changed), swept={"a": swept})
    below = {"a_1": (0.1, 1.1), "a_2": (-0.1, 0.9), "a_4": (0.0, 0.0)}  # means 0.6, 0.4 and 0
    for name, (first, second) in below.items():
        folder = tmp_path / plan.run(name, 100).folder
        folder.mkdir()
        result = {"evaluations": {"16": {"scores": {REWARD: [5.0 - first, -3.0 - second]}}}}
        (folder / running.RESULT).write_text(json.dumps(result), encoding="utf-8")
    assert reporting.chosen(plan, tmp_path) == {"a": 2.0}
    (tmp_path / plan.run("a_2", 100).folder / running.RESULT).unlink()
    assert reporting.chosen(plan, tmp_path) == {"a": 4.0}


def test_a_sweep_that_no_plan_asks_for_is_refused() -> None:
    plan = planning.Plan(planning.load().options.model_copy(update={"sweep": None}))
    with pytest.raises(ValueError, match="no section `sweep`"):
        planning.sweep(plan)


@pytest.mark.parametrize("kept", [{"ema_decay": 0.9}, {"early_stop": {"score": "shapes_accuracy", "patience": 2}}])
def test_weights_that_no_checkpoint_has_are_refused(kept: dict[str, Any]) -> None:
    options = planning.load().options
    changed = options.model_copy(update={"base": planning.merged(options.base, {"train": kept})})
    with pytest.raises(ValueError, match=f"variant tail_2: train.{next(iter(kept))} keeps other weights"):
        planning.Plan(changed).runs()


def test_budgets_are_read_off_at_equal_operations_and_seconds() -> None:
    change = {"gain": 0.1, "mean": 1.0, "interval": [0.0, 0.2], "by_seed": [0.1], "seed_interval": None}

    def point(queries: int, cpu: float) -> dict[str, Any]:
        figures = {REWARD: change, "shapes_accuracy": change, "diversity": change, "divergence": 0.0}
        more = {"by_kind": {"one": change}, "alarms": [["colour"], [], ["colour", "motion"]]}
        return {"queries": queries, "cpu": cpu, **figures, **more}

    def variant(title: str, *points: dict[str, Any]) -> dict[str, Any]:
        found = {str(one["queries"]): one for one in points}
        less = {"gain": -0.3, "interval": [-0.4, -0.2]}
        rest = {"points": found, "kl": False, "curve": False, "beside": {REWARD: less, "shapes_accuracy": less}}
        return {"title": title, "operations_per_query": 1e9, "queries_per_step": 16.0, "held": 2.5e8, **rest}

    variants = {"a": variant("A", point(10, 5.0)), "b": variant("B", point(10, 2.0), point(20, 4.0), point(40, 8.0))}
    base = {REWARD: 1.0, "shapes_accuracy": 0.9, "diversity": 1.0, "by_kind": {"one": 0.9}}
    data = {"queries": 10, "equal_to": "a", "equal": {"a": 10, "b": 40}, "variants": variants, "base": base}
    made = tables.tables(data)
    assert "| B | 40 |" in made["operations"]
    assert made["operations"].splitlines()[-1].endswith("| -0.300 [-0.400, -0.200] | -30.0 [-40.0, -20.0] |")
    assert "| B | 20 |" in made["seconds"]
    assert "| B | +10.0 [+0.0, +20.0] | colour (2 of 3), motion (1 of 3) | 250 | 16.0 |" in made["kinds"]


def test_an_evaluation_alarms_when_its_clips_leave_the_range_of_the_base_s() -> None:
    values = [0.1 + 0.001 * index for index in range(8)]
    base = {"statistics": {"colour": values, "motion": values}}
    moved = {"statistics": {"colour": [5 * value for value in values], "motion": values}}
    assert reporting.alarmed(base, base) == []
    assert reporting.alarmed(base, moved) == ["colour"]


def test_the_diversity_of_an_evaluation_alarms_though_its_first_clip_has_none() -> None:
    base = {"statistics": {"diversity": [None, *[0.3] * 8]}}
    alike = {"statistics": {"diversity": [None, *[0.01] * 8]}}
    assert reporting.alarmed(base, base) == []
    assert reporting.alarmed(base, alike) == ["diversity"]


def test_a_variant_has_the_learning_rate_of_the_one_that_it_names() -> None:
    read = planning.load()
    spec = planning.merged(read.options.variants["srpo"].spec, {"train": {"learning_rate": 7e-4}})
    chosen = read.options.variants["srpo"].model_copy(update={"spec": spec})
    options = read.options.model_copy(update={"variants": {**read.options.variants, "srpo": chosen}})
    plan = planning.Plan(options)
    rates = {name: plan.run(name, 1).spec["train"]["learning_rate"] for name in ("srpo", "srpo_denoising", "tail_2")}
    assert rates == {"srpo": 7e-4, "srpo_denoising": 7e-4, "tail_2": options.base["train"]["learning_rate"]}


@pytest.mark.parametrize("old", ["", "old\n", "\nold | \\1 |\n\n"])
def test_a_table_is_put_between_its_marks_alone(old: str) -> None:
    page = f"before\n<!-- table a -->\n{old}<!-- end -->\nbetween\n<!-- table b -->\nkept\n<!-- end -->\nafter\n"
    renewed = page.replace(f"<!-- table a -->\n{old}", "<!-- table a -->\n\nnew | \\1 |\n\n")
    assert reporting.with_tables(page, {"a": "new | \\1 |"}) == renewed
    assert reporting.with_tables(renewed, {"a": "new | \\1 |"}) == renewed


@pytest.mark.parametrize("page", reporting.PAGES)
def test_the_docs_show_the_committed_results(page: str) -> None:
    text = (HERE / "docs" / page).read_text(encoding="utf-8")
    assert "<!-- table " in text
    assert reporting.with_tables(text, reporting.documented(COMMITTED)) == text


@pytest.mark.parametrize("folder", [COMMITTED, COMMITTED / "sweep"], ids=["results", "sweep"])
def test_the_committed_tables_are_those_of_the_committed_figures(folder: Path) -> None:
    made = tables.tables(json.loads((folder / "results.json").read_text(encoding="utf-8")))
    assert (folder / "table.md").read_text(encoding="utf-8") == "\n\n".join(made.values()) + "\n"


def test_the_committed_results_show_what_the_docs_claim() -> None:
    """At equal operations none is surely above the last two steps; what sees numbers is below; a KL weight helps."""
    data = json.loads((COMMITTED / "results.json").read_text(encoding="utf-8"))
    variants = data["variants"]
    beside = {name: variant["beside"][REWARD]["interval"] for name, variant in variants.items()}
    points = {name: variant["points"][str(data["equal"][name])] for name, variant in variants.items()}
    assert points["tail_2"][REWARD]["interval"][0] > 0
    assert all(low <= 0 for low, _ in beside.values())
    assert all(beside[name][1] >= 0 for name in ("flowbp_sparse", "flowbp_bridge", "leapalign", "refl", "full"))
    numbers = ("nft", "awm", "mixgrpo", "flow_grpo_fast", "ddpo", "dpo")
    assert all(beside[name][1] < 0 for name in ("srpo", "flowbp_lagrange", *numbers))
    kept = [points["tail_2"], points["kl_10"], points["kl_100"]]
    assert [point[ACCURACY]["interval"][0] > 0 for point in kept] == [False, True, True]
    for light, heavy in itertools.pairwise(kept):
        assert heavy["divergence"] < light["divergence"]
        assert heavy[REWARD]["gain"] < light[REWARD]["gain"]
    assert not any(point["alarms"][seed] for point in points.values() for seed in range(3))
    assert len(kl_points(data)) == 2


def test_every_course_has_a_colour_of_its_own() -> None:
    assert sum(variant.curve for variant in planning.load().options.variants.values()) <= len(plots.COLOURS)
