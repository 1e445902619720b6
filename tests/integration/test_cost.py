"""What a run costs: clips scored by every kind of method, operations as torch counts them, time of validations."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.integration.harness import At, assert_same_adapter, merged, tiny
from tests.integration.test_methods import VARIANTS
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attention
from torch.utils.flop_counter import FlopCounterMode

import vader
from vader.report.cost import costs
from vader.report.reading import read_run
from vader.resolve.validate import resolve
from vader.runs import cost
from vader.runs.assembly import assemble
from vader.runs.engine import Engine
from vader.runs.flops import FlopCounter, countable
from vader.runs.metrics_file import FLOPS, QUERIES
from vader.runs.train_step import Counters, TrainStep
from vader.spec.components import IsolateSpec

SHAPES: dict[str, Any] = {
    "backbone": {"name": "shapes", "adapter": {"rank": 4}},
    "sampler": {"steps": 2, "guidance_scale": 3.0},
    "prompts": {"name": "list", "options": {"prompts": ["a red circle"]}},
    "rewards": ["shapes_alignment"],
    "gradient": {"mode": "last"},
    "train": {"steps": 1, "device": "cpu"},
    "validation": {"clips": 0},
}


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def seconds(folder: Path) -> dict[str, float]:
    return {path.parent.name: json.loads(path.read_text())["seconds"] for path in folder.glob("samples/*/*.json")}


@pytest.mark.parametrize(
    ("variant", "queries"),
    [
        ({}, [2, 2, 2]),  # one clip, two micro-steps
        (VARIANTS["renoise"], [4, 4, 4]),  # two draws
        (VARIANTS["srpo"], [8, 8, 8]),  # two noise levels, two directions, whatever the phrases
        (VARIANTS["ddpo"], [4, 0, 0]),  # two clips, two micro-steps, for three optimizer steps
        (VARIANTS["mixgrpo"], [4, 0, 4]),
        (VARIANTS["dpo"], [4, 0, 4]),
    ],
)
def test_clips_are_counted_where_they_are_scored(variant: Any, queries: list[int], tmp_path: Path) -> None:
    made = merged(tiny(tmp_path / "run", **variant), {"validation": {"clips": 3, "save_clips": 0}})
    vader.train(made, ["train.steps=3"])
    assert [line[QUERIES] for line in logged(tmp_path / "run")] == queries
    told = dict(costs(read_run(tmp_path / "run")))
    assert told["Clips scored in training"] == str(sum(queries))
    assert told["Clips scored in validations"] == "6"


def test_a_resumed_run_has_the_costs_of_an_unbroken_one(tmp_path: Path) -> None:
    """The validation at the step where it was stopped is not made, and not counted, twice."""
    changes: dict[str, Any] = {"train": {"validate_every": 2}, "validation": {"clips": 2, "save_clips": 0}}
    for name in ("whole", "run"):
        made = merged(tiny(tmp_path / name), changes)
        if name == "run":
            vader.train(made, listeners=[At(4, lambda: os.kill(os.getpid(), signal.SIGTERM))])
            before = seconds(tmp_path / name)
            assert sorted(before) == ["step-000000", "step-000002"]
        vader.train(made, resume=True)
    after = seconds(tmp_path / "run")
    assert {step: after[step] for step in before} == before
    lines = logged(tmp_path / "run")
    assert [line["step"] for line in lines if FLOPS in line] == [1, 5], "in the first round of each start"
    run, whole = (read_run(tmp_path / name) for name in ("run", "whole"))
    assert {name for name, _ in costs(run)} == {name for name, _ in costs(whole)}
    for name in ("Clips scored in training", "Clips scored in validations"):
        assert dict(costs(run))[name] == dict(costs(whole))[name]
    assert sum(one.seconds or 0 for one in run.every_validation) == sum(after.values()) > 0


def test_operations_are_those_that_torch_counts_and_change_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {**SHAPES, "output": str(tmp_path / "counted")}
    with sdpa_kernel(SDPBackend.MATH):  # torch counts the CPU's fused attention as nothing
        vader.train(spec)
        plan = resolve(spec)
        engine = Engine(plan.spec)
        live = assemble(plan, engine, lambda _: None)
        parts: Any = (plan.spec.train, engine, live.denoiser, live.optimizer, live.parameters, live.method)
        timer, objective = live.context.timer, live.context.objective
        step = TrainStep(*parts, plan.prompts, live.encode, Counters(), timer, objective)
        with FlopCounterMode(display=False) as counter:
            step.step(0)
        monkeypatch.setattr(cost, "countable", lambda plan, processes: False)
        vader.train({**SHAPES, "output": str(tmp_path / "plain")})
    (counted,), (plain,) = logged(tmp_path / "counted"), logged(tmp_path / "plain")
    assert counted[FLOPS] == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert counter.get_total_flops() > 0
    assert FLOPS not in plain
    assert {key: counted[key] for key in ("loss", "grad_norm")} == {key: plain[key] for key in ("loss", "grad_norm")}
    assert_same_adapter(tmp_path / "counted" / "adapter", tmp_path / "plain" / "adapter")


def test_backward_and_fused_attention_are_counted() -> None:
    layer, x = nn.Linear(8, 4, bias=False), torch.rand(3, 8, requires_grad=True)
    with FlopCounter() as forward:
        loss = layer(x).sum()
    with FlopCounter() as backward:
        loss.backward()
    assert (forward.total, backward.total) == (2 * 3 * 8 * 4, 2 * 2 * 3 * 8 * 4)
    query, key = torch.rand(1, 2, 5, 16, requires_grad=True), torch.rand(1, 2, 7, 16)
    with FlopCounter() as fused, sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        value = attention(query, key, key).sum()
    with FlopCounter() as plain, sdpa_kernel(SDPBackend.MATH):
        attention(query, key, key)
    assert fused.total == plain.total == 2 * 2 * 2 * 5 * 7 * 16
    with FlopCounter() as back:
        value.backward()
    assert back.total == 5 * fused.total // 2, "scores once more, and four products"


def test_what_cannot_be_counted_whole_is_not_counted(tmp_path: Path) -> None:
    plan = resolve(tiny(tmp_path))
    assert countable(plan, 1)
    assert not countable(plan, 2), "several processes"
    assert not countable(resolve(tiny(tmp_path, train={"compile": True})), 1)
    (key, reward), spec = next(iter(plan.rewards.items())), plan.spec
    held, judged = SimpleNamespace(quantize="bnb_nf4"), SimpleNamespace(quantization={"load_in_4bit": True})
    assert not countable(replace(plan, backbone=replace(plan.backbone, options=held)), 1)
    assert not countable(replace(plan, rewards={key: replace(reward, options=judged)}), 1)
    isolate = IsolateSpec(python="python")
    apart = spec.model_copy(update={"rewards": (spec.rewards[0].model_copy(update={"isolate": isolate}),)})
    assert not countable(replace(plan, spec=apart), 1)
