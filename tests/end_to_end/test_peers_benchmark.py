"""The benchmark of peers: their steps compute what ours does, and the page shows what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks.peers import __main__ as peers
from benchmarks.peers import loops, measuring, worlds


def gradient(world: worlds.World) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in world.live.parameters if p.grad is not None])


@pytest.mark.parametrize(
    ("family", "peer", "k", "blocks"),
    [
        pytest.param("modelscope", loops.modelscope_reference, 1, False, marks=pytest.mark.slow),
        ("wan", loops.wan_videox_fun, 2, True),
    ],
)
def test_a_peer_has_our_loss_and_our_gradient(
    family: str, peer: Callable[[worlds.World], Any], k: int, blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at that our step makes no more operations or calls, and holds no more bytes."""
    world = worlds.build(family, steps=3, k=k, blocks=blocks, clips=1)
    found = []
    kept: list[torch.Tensor] = []
    noted = lambda *_, **__: kept.append(gradient(world)) or torch.ones(())  # noqa: E731
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    for step in (lambda: world.step.step(0)[0]["loss"], lambda: peer(world)):
        measuring.clear(world)
        found.append(float(step()))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    torch.testing.assert_close(kept[0], kept[1], rtol=1e-3, atol=1e-5 * float(kept[1].abs().max()))
    ours, theirs = (measuring.cost(world, step) for step in (lambda: world.step.step(0), lambda: peer(world)))
    assert ours.calls == theirs.calls == 3
    assert ours.flops <= theirs.flops
    assert ours.saved <= theirs.saved
    assert ours.held <= 1.001 * theirs.held


def test_the_page_shows_the_results() -> None:
    results = json.loads((peers.RESULTS / "results.json").read_text())
    page = peers.PAGE.read_text(encoding="utf-8")
    for name, table in peers.tables(results).items():
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in page, f"{name}: run python -m benchmarks.peers"
