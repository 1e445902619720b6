"""The adapter that a run keeps: its last one, its moving average, or that of the best validation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vader.resolve.plan import Plan
from vader.runs import checkpoint, early_stop
from vader.runs.assembly import Assembly
from vader.runs.engine import Engine
from vader.runs.events import Validation
from vader.runs.folder import RunFolder
from vader.weights import lora


@dataclass(frozen=True)
class KeptAdapter:
    """The optimizer step of the adapter that is kept, and why it is not the last one's."""

    step: int
    why: str | None = None


class AdapterKeeper:
    """Writes the adapters that a run keeps.

    Args:
        plan: of the run.
        live: with the adapter.
        folder: of the run.
        engine: of the run.
    """

    def __init__(self, plan: Plan, live: Assembly, folder: RunFolder, engine: Engine) -> None:
        self._stop, self._live, self._folder, self._engine = plan.spec.train.early_stop, live, folder, engine
        self._denoiser_name = plan.backbone.capability("denoiser_name")
        self._experts = plan.backbone.capability("experts")

    def weights(self) -> AbstractContextManager[None]:
        """The weights that are validated and kept: the moving average where there is one."""
        return self._live.ema.swapped_in() if self._live.ema is not None else nullcontext()

    def after_validation(self, step: int, read: Callable[[int], Sequence[Validation]]) -> bool:
        """Keep the adapter if it is the best until now, under :meth:`weights`.

        Args:
            step: optimizer steps done.
            read: gives all validations up to a step.

        Returns:
            Whether the run has learnt what it can.
        """
        if self._stop is None:
            return False
        validations = read(step)
        if early_stop.best(self._stop, validations).step == step:
            self._write(self._folder.best)
        return early_stop.exhausted(self._stop, validations)

    def finish(self, step: int, validations: Sequence[Validation]) -> KeptAdapter:
        """Write ``adapter/`` at the end of a run."""
        if self._stop is None:
            with self.weights():
                self._write(self._folder.adapter)
            return KeptAdapter(step)
        best = early_stop.best(self._stop, validations)
        if self._engine.is_main:
            copy = partial(shutil.copytree, self._folder.best, dirs_exist_ok=True)
            checkpoint.replace_folder(self._folder.adapter, copy)
        return KeptAdapter(best.step, f"{self._stop.score} was highest there ({best.mean(self._stop.score):.4g})")

    def _write(self, folder: Path) -> None:
        """The adapter as it is now, for peft and for diffusers."""
        if self._engine.is_main:
            named = {"denoiser_name": self._denoiser_name, "experts": self._experts}
            write = partial(lora.save, self._live.backbone.denoiser, **named)
            checkpoint.replace_folder(folder, write)
        self._engine.wait()
