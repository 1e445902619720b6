"""What a session of a run spends: clips scored, floating-point operations, energy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vader.methods.query_counter import QueryCounter
from vader.resolve.plan import Plan
from vader.runs.energy import EnergyMeter, counter_of
from vader.runs.engine import Engine
from vader.runs.flops import FlopCounter, countable
from vader.runs.metrics_file import ENERGY, FLOPS, QUERIES


class Meter:
    """Of one process; what its methods give is added up over all.

    Operations are counted in the first round of a session: the optimizer steps that share clips, whose first one makes
    them; mostly that is one step. Later ones cost the same on average, and counting takes time.

    Args:
        plan: of the run.
        engine: of the run.
        queries: counts the clips that training scores.
        round_: optimizer steps in a round.
    """

    def __init__(self, plan: Plan, engine: Engine, queries: QueryCounter, round_: int) -> None:
        self._engine, self._queries = engine, queries
        self._left = round_ if countable(plan, engine.num_processes) else 0
        self._flops: FlopCounter | None = None
        self._energy = EnergyMeter(counter_of(engine.device, first=engine.is_first_here))

    @contextmanager
    def step(self) -> Iterator[None]:
        """An optimizer step runs in the block."""
        if not self._left:
            yield
            return
        self._left -= 1
        with FlopCounter() as self._flops:
            yield
        self._flops = None

    def spent(self) -> dict[str, float]:
        """Of the optimizer step so far, by metric; NaN for what is not known. The energy is that since it was last
        asked for, a validation's or a step's, so that what lies between is in it."""
        flops = self._flops.total if self._flops is not None else math.nan
        return {QUERIES: self._queries.read(), FLOPS: flops, ENERGY: self._energy.read()}

    def energy(self) -> float | None:
        """Joules of all processes since they were last asked for; None where no device tells. All must call it."""
        here = torch.tensor([self._energy.read()], device=self._engine.device)
        total = float(self._engine.gather(here).sum())
        return None if math.isnan(total) else total
