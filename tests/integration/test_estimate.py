"""``vader estimate`` against measured bytes of real steps on tiny models, to 15 %."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.memory import measure, watch

from vader.backbones.streaming import recompute as streaming
from vader.estimation import estimate
from vader.estimation.watched_step import ADAPTER, DECODING, GRADIENT, REWARDS, STATE, WINDOW

REWARD = f"{Path(__file__).parents[1] / 'memory_reward.py'}:Small"
TOLERANCE = 0.15

DESIGN = [
    # k, recompute, gradient_checkpointing, batch_size, precision: every pair of two settings' values occurs
    (1, True, True, 1, "no"),
    (1, True, False, 2, "bf16"),
    (1, False, True, 2, "no"),
    (1, False, False, 1, "bf16"),
    (4, True, True, 2, "bf16"),
    (4, True, False, 1, "no"),
    (4, False, True, 1, "bf16"),
    (4, False, False, 2, "no"),
]
SLOW = [pytest.mark.slow]
"""For up to a minute each: of networks, methods and ways to decode, some are enough for every change."""
EVERY_CHANGE = ("shapes", 3)
"""Network and number of the setting; bf16 and other windows are among ways to decode."""
VIDEOS = {
    "modelscope": {"frames": 4, "height": 64, "width": 64},
    "videocrafter2": {"frames": 4, "height": 64, "width": 64},
    "shapes": {},  # a Wan
    "opensora": {"frames": 17, "height": 64, "width": 64},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Options of a backbone with its tiny weights; they are written when first asked for."""
    made: dict[str, dict[str, Any]] = {"shapes": {}}

    def options(name: str) -> dict[str, Any]:
        if name not in made:
            import importlib

            tiny = importlib.import_module(f"vader_{name.rstrip('2')}.tiny")
            made[name] = {"weights": str(tiny.write(tmp_path_factory.mktemp(name)))}
        return made[name]

    return options


def spec_of(
    name: str, options: dict[str, Any], k: int, recompute: bool, checkpointing: bool, batch: int, precision: str
) -> dict[str, Any]:
    return {
        "backbone": {"name": name, "options": options, "adapter": {"rank": 4}},
        "video": VIDEOS[name],
        "sampler": {"steps": k + 1, "guidance_scale": 3.0},
        "prompts": {"name": "list", "options": {"prompts": ["a red circle", "a blue square", "a fox"]}},
        "rewards": [{"name": REWARD, "label": "small"}],
        "gradient": {"mode": "tail", "k": k, "recompute": recompute},
        "frames": {"mode": "all"},
        "train": {
            "batch_size": batch,
            "mixed_precision": precision,
            "gradient_checkpointing": checkpointing,
            "device": "cpu",
        },
        "validation": {"clips": 0},
    }


@pytest.mark.parametrize(
    ("name", "k", "recompute", "checkpointing", "batch", "precision"),
    [
        pytest.param(name, *setting, marks=[] if (name, number) == EVERY_CHANGE else SLOW)
        for place, name in enumerate(VIDEOS)
        # in each half every setting has both values
        for number, setting in enumerate((DESIGN[:2] + DESIGN[6:], DESIGN[2:6])[place % 2])
    ],
)
def test_is_within_15_percent_of_what_is_measured(
    weights: Callable[[str], dict[str, Any]],
    name: str,
    k: int,
    recompute: bool,
    checkpointing: bool,
    batch: int,
    precision: str,
) -> None:
    spec = spec_of(name, weights(name), k, recompute, checkpointing, batch, precision)
    found, real, rows = estimate(spec), measure(spec), watch(spec)
    near = lambda expected: pytest.approx(expected, rel=TOLERANCE)  # noqa: E731
    assert found.not_counted == {}
    counted = found.training.most
    assert found.total == near(real.total)
    assert {name: counted[f"weights: {name.replace('_', ' ')}"] for name in real.weights} == real.weights
    assert (counted[ADAPTER], counted[GRADIENT], counted[STATE]) == (real.adapter, real.gradient, real.state)
    for row in (WINDOW, DECODING, REWARDS):
        assert counted[row] == near(rows.most[row]), row
    assert {row: counted[row] for row in counted if row.startswith("weights: reward")} == {
        row: size for row, size in rows.most.items() if row.startswith("weights: reward")
    }


OF_METHODS: dict[str, dict[str, Any]] = {
    "flowbp": {"variant": "sparse", "active": 3},
    "leapalign": {"reuse": 2},
    "srpo": {},
    "nft": {"group_size": 2, "decay_rate": 0.1},
    "awm": {"group_size": 2, "reuse": 2, "draws": 2},
    "mixgrpo": {"group_size": 2, "window": 1},
}


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[] if name == "awm" else SLOW) for name in OF_METHODS],
)
def test_so_is_every_method(method: str) -> None:
    spec = spec_of("shapes", {}, 4, True, False, 2, "no")
    spec |= {"method": {"name": method, "options": OF_METHODS[method]}, "gradient": {"branches": "both"}}
    spec["sampler"] |= {"eta": 1.0 if method == "mixgrpo" else 0.0}
    if method == "srpo":
        phrases = {"positive": "a sharp", "negative": "a dull"}
        spec["rewards"] = [{"name": "shapes_alignment", "contrast": phrases}]
    assert estimate(spec).total == pytest.approx(measure(spec).total, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("window", "precision", "tiles", "small"),
    [
        pytest.param(None, "bf16", 1, 0, marks=SLOW),
        pytest.param(1, "float32", 1, 0, marks=SLOW),
        (2, "bf16", 2, streaming.SMALL),
        pytest.param(None, "float32", 2, 0, marks=SLOW),
    ],
)
def test_so_is_every_way_to_decode(
    monkeypatch: pytest.MonkeyPatch, window: int | None, precision: str, tiles: int, small: int
) -> None:
    """In one process, one after another; at the size of the embedded model nothing is recomputed unless it must be."""
    monkeypatch.setattr(streaming, "SMALL", small)
    spec = spec_of("shapes", {}, 1, True, False, 1, "no")
    spec["video"] = {"frames": 13}
    modes = {"decode_window": window, "decode_precision": precision, "decode_tiles": tiles}
    spec["frames"] = {"mode": "index", "index": 12, **modes}
    found, real, rows = estimate(spec), measure(spec), watch(spec)
    assert found.total == pytest.approx(real.total, rel=TOLERANCE)
    assert found.training.most[DECODING] == pytest.approx(rows.most[DECODING], rel=TOLERANCE)
