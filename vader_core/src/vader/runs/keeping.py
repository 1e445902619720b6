"""The adapter that a run keeps: its last one, its moving average, or that of the best validation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from vader.errors import CheckpointError, RunFolderError, WeightsError
from vader.resolve.plan import Plan
from vader.runs import checkpoint, early_stop
from vader.runs.assembly import Assembly
from vader.runs.checkpoint import Checkpoint
from vader.runs.engine import Engine
from vader.runs.events import Validation
from vader.runs.folder import RunFolder, step_folder
from vader.weights import lora, sealed


@dataclass(frozen=True)
class KeptAdapter:
    """The optimizer step of the adapter that is kept, and what there is to say of it."""

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
        if not validations:
            return False
        if early_stop.best(self._stop, validations).step == step:
            self._write(self._folder.best, step)
        return early_stop.exhausted(self._stop, validations)

    def finish(self, step: int, validations: Sequence[Validation]) -> KeptAdapter:
        """Write ``adapter/`` at the end of a run. It is written whatever has become of other files."""
        if self._stop is None or not validations:
            with self.weights():
                self._write(self._folder.adapter, step)
            return KeptAdapter(step)
        best = early_stop.best(self._stop, validations)
        score = f"{self._stop.score} was highest there ({best.mean(self._stop.score):.4g})"
        if best.step == step:
            with self.weights():
                self._write(self._folder.adapter, step)
        elif self._best_is_whole(best.step):
            if self._engine.is_main:
                checkpoint.replace_folder(self._folder.adapter, self._copy_best)
            self._engine.wait()
        elif (found := self._checkpoint(best.step)) is not None:
            with self._weights_of(found):
                self._write(self._folder.adapter, best.step)
        else:
            with self.weights():
                self._write(self._folder.adapter, step)
            lost = (
                f"that of optimizer step {best.step}, where {self._stop.score} was highest, is lost or damaged in best/"
            )
            return KeptAdapter(step, lost)
        return KeptAdapter(best.step, score)

    def _best_is_whole(self, step: int) -> bool:
        """Whether ``best/`` holds the adapter of a step, undamaged; without a manifest, as earlier versions wrote it,
        it is believed if it can be read. All processes say what the main one found."""
        whole = False
        if self._engine.is_main:
            try:
                lora.read(self._folder.best)
                manifest = sealed.read(self._folder.best)
                sealed.check(self._folder.best, manifest)
                whole = manifest["step"] == step
            except sealed.Damaged:
                whole = not (self._folder.best / sealed.MANIFEST).exists()
            except (WeightsError, OSError, KeyError):
                whole = False
        return self._engine.gather_objects([whole])[0]

    def _checkpoint(self, step: int) -> Checkpoint | None:
        """The checkpoint after ``step`` optimizer steps, if it is sound."""
        try:
            return checkpoint.verify(self._folder.checkpoints / step_folder(step))
        except (CheckpointError, RunFolderError):
            return None

    @contextmanager
    def _weights_of(self, found: Checkpoint) -> Iterator[None]:
        """What a checkpoint would keep, on the denoiser for as long as the context lasts."""
        own = [parameter.detach().clone() for parameter in self._live.parameters]
        lora.load_into(self._live.backbone.denoiser, found.adapter)
        try:
            checkpoint.take_average(found, self._live.parameters)
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._live.parameters, own, strict=True):
                    parameter.copy_(value)

    def _copy_best(self, folder: Path) -> None:
        """The files of ``best/`` that are an adapter's."""
        own = (lora.PEFT_FILE, lora.PEFT_CONFIG, lora.DIFFUSERS_FILE, lora.DIFFUSERS_FILE_2, sealed.MANIFEST)
        for name in own:
            if (self._folder.best / name).is_file():
                shutil.copyfile(self._folder.best / name, folder / name)

    def _write(self, final: Path, step: int) -> None:
        """The adapter as it is now, for peft and for diffusers, with the digests of its files."""

        def write(folder: Path) -> None:
            denoiser = self._live.backbone.denoiser
            lora.save(denoiser, folder, denoiser_name=self._denoiser_name, experts=self._experts)
            sealed.seal(folder, {"step": step})

        if self._engine.is_main:
            checkpoint.replace_folder(final, write)
        self._engine.wait()
