"""Adapters from strangers: whatever their configuration and tensors, one short error soon, or an adapter."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.mutations import ODD, odd
from torch import Tensor

from vader.errors import WeightsError
from vader.weights import lora

QUICK = settings(
    max_examples=60,
    deadline=timedelta(seconds=5),
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LAYERS = ("blocks.0.attn1.to_q", "blocks.1.attn1.to_q.and.a.name.that.is.rather.long")
CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q"], "bias": "none", "use_rslora": False,
    "rank_pattern": {"blocks.0.attn1.to_q": 2}, "alpha_pattern": {"to_q": 3}, "init_lora_weights": True,
    "modules_to_save": None, "loftq_config": {}, "exclude_modules": None, "layers_to_transform": None,
}  # fmt: skip


def tensors() -> dict[str, Tensor]:
    """Of an adapter of rank 2 for :data:`LAYERS`."""
    halves = {"lora_A": (2, 4), "lora_B": (3, 2)}
    return {f"base_model.model.{layer}.{half}.weight": torch.ones(halves[half]) for layer in LAYERS for half in halves}


def write(folder: Path, config: Any, state: dict[str, Tensor] | None = None) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file(tensors() if state is None else state, folder / lora.PEFT_FILE)
    (folder / lora.PEFT_CONFIG).write_text(json.dumps(config))
    return folder


def read(folder: Path) -> str:
    """What an adapter is refused with; nothing for one that is taken, whose numbers are then sound."""
    try:
        adapter = lora.read(folder)
    except WeightsError as error:
        said = str(error)
    else:
        said = ""
        assert adapter.spec.rank > 0
        assert all(tensor.float().isfinite().all() for tensor in adapter.state.values())
    assert len(said) < 900
    return said


@QUICK
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 3))
def test_any_configuration_is_read_or_refused(seed: int, changes: int, tmp_path: Path) -> None:
    rng, config = random.Random(seed), json.loads(json.dumps(CONFIG))
    for _ in range(changes):
        config = odd(config, rng)
    read(write(tmp_path / "a", config))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("field", CONFIG)
def test_a_field_may_hold_anything(field: str, tmp_path: Path) -> None:
    for value in ODD:
        read(write(tmp_path / "a", {**CONFIG, field: value}))


SCRAPS = ["(", ")", "*", "+", "?", "|", ".", "[", "]", "^", "$", "\\", "{", "}", ",", "2", "a", "to_q"]


@QUICK
@given(key=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(SCRAPS))))
@example(key="(a+)+b")
@example(key="(.*)*x")
@example(key=".*.*.*.*.*.*.*x")
@example(key="(.|.)*.*x")
@example(key="((a{0,99}){0,99}){0,99}")
@example(key="(?=" * 300)
def test_any_pattern_of_layers_is_tried_or_refused_soon(key: str | list[str], tmp_path: Path) -> None:
    pattern = {key if isinstance(key, str) else "".join(key): 2}
    read(write(tmp_path / "a", {**CONFIG, "rank_pattern": pattern, "alpha_pattern": pattern}))


NAME = next(iter(tensors()))
TENSORS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "not finite": (lambda tensor: tensor * float("inf"), "numbers that are not finite"),
    "integers": (lambda tensor: tensor.long(), "is of torch.int64; expected floating-point"),
    "truths": (lambda tensor: tensor.bool(), "is of torch.bool"),
    "complex": (lambda tensor: tensor.to(torch.complex64), "is of torch.complex64"),
    "a scalar": (lambda tensor: tensor.mean(), "rank 0"),
    "empty": (lambda tensor: tensor[:0].clone(), "rank 0"),
    "flat": (lambda tensor: tensor.flatten(), "says rank 2"),
    "transposed": (lambda tensor: tensor.T.contiguous(), "says rank 2"),
    "in 8 bits": (lambda tensor: tensor.to(torch.float8_e4m3fn), ""),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_no_factors_are_refused(name: str, tmp_path: Path) -> None:
    change, message = TENSORS[name]
    state = tensors()
    said = read(write(tmp_path / "a", {**CONFIG, "rank_pattern": {}}, {**state, NAME: change(state[NAME])}))
    assert message in said
    assert bool(message) == bool(said)


@QUICK
@given(held=st.binary(max_size=300), place=st.floats(0, 1), cut=st.booleans())
def test_any_bytes_are_read_or_refused(held: bytes, place: float, cut: bool, tmp_path: Path) -> None:
    file = write(tmp_path / "a", CONFIG) / lora.PEFT_FILE
    sound = file.read_bytes()
    at = int(place * len(sound))
    file.write_bytes(sound[:at] + held + (b"" if cut else sound[at + len(held) :]))
    read(file.parent)


@QUICK
@given(names=st.lists(st.text(min_size=1, max_size=40), unique=True, max_size=3), end=st.sampled_from(["", *tensors()]))
def test_any_names_are_read_or_refused(names: list[str], end: str, tmp_path: Path) -> None:
    state = {name.encode("utf-8", "replace").decode() + end: torch.ones(2, 2) for name in names}
    read(write(tmp_path / "a", CONFIG, state))
