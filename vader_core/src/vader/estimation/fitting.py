"""The fewest and cheapest changes of a spec with which a run fits a device: ``vader estimate --fit``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vader.errors import VaderError
from vader.estimation.estimate import Estimate, estimate
from vader.estimation.suggestions import Change, changes
from vader.resolve.validate import Spec, resolve
from vader.spec import RunSpec
from vader.spec.reading import read_source

Progress = Callable[[int, int, str], None]
"""Told which variant is estimated next, how many there may be in all, and what it is."""


@dataclass(frozen=True)
class Fit:
    """A run that was made to fit.

    Args:
        limit: bytes of the device.
        before: the run as it was.
        after: the run with the changes: it fits, or it is the smallest that was reached.
        changes: in the order of what they cost.
    """

    limit: int
    before: Estimate
    after: Estimate
    changes: tuple[Change, ...]

    @property
    def fits(self) -> bool:
        """Whether the run with the changes fits."""
        return self.after.total <= self.limit

    @property
    def overrides(self) -> list[str]:
        """The changes as dotted ``path=value``."""
        return [override for change in self.changes for override in change.overrides]


def fit_memory(
    spec: Spec,
    limit: int,
    overrides: Sequence[str] = (),
    device: str | None = None,
    progress: Progress = lambda *_: None,
    *,
    trust_code: bool = False,
) -> Fit:
    """Find changes of a spec with which the run fits: time is spent before numbers are rounded, and so on.

    Changes are added in the order of :data:`vader.protocols.Cost`, each one that makes a phase smaller that does not
    fit, until all do; then those that turn out not to be needed are taken back, the dearest first. Every variant is
    estimated; for a real-size model each takes about half a minute.

    Args:
        spec: see :func:`vader.estimate`.
        limit: bytes of the device.
        overrides: see :func:`vader.estimate`.
        device: see :func:`vader.estimate`.
        progress: told what is estimated next.
        trust_code: see :func:`vader.estimate`.

    Raises:
        SpecError: the spec is wrong.
        WeightsError: the backbone cannot be built without its weights.
    """
    offered = changes(resolve(spec, overrides, trust_code=trust_code))
    search = _Search(RunSpec.model_validate(read_source(spec, overrides).data), limit, device, progress)
    before = search.first(len(offered))
    found, kept = before, list[Change]()
    for change in offered:
        if found.total <= limit:
            break
        tried = _with(kept, change)
        result = search.attempt(tried)
        if result is not None and search.excess(result) < search.excess(found):
            found, kept = result, tried
    if found.total > limit:
        return Fit(limit, before, *search.smallest)
    search.most = search.count + len(kept) - 1
    for change in [*reversed(kept)][1:]:  # without the last one it did not fit
        tried = [each for each in kept if each is not change]
        result = search.attempt(tried)
        if result is not None and result.total <= limit:
            found, kept = result, tried
    return Fit(limit, before, found, tuple(kept))


def _with(kept: Sequence[Change], change: Change) -> list[Change]:
    """A change after others, in place of those that set the same."""
    return [*(each for each in kept if not each.paths & change.paths), change]


class _Search:
    """Estimates variants of a spec.

    Args:
        spec: without changes.
        limit: bytes.
        device: see :func:`vader.estimate`.
        progress: is told.
    """

    def __init__(self, spec: RunSpec, limit: int, device: str | None, progress: Progress) -> None:
        self._spec, self._limit, self._device, self._progress = spec, limit, device, progress
        self.count, self.most = 0, 0

    def first(self, changes: int) -> Estimate:
        """The estimate without changes."""
        self.most = 1 + changes + max(changes - 1, 0)
        found = self._estimate([])
        self.smallest: tuple[Estimate, tuple[Change, ...]] = found, ()
        return found

    def attempt(self, tried: Sequence[Change]) -> Estimate | None:
        """The estimate with changes; None if the spec cannot have them."""
        try:
            found = self._estimate(tried)
        except VaderError:
            return None
        if found.total < self.smallest[0].total:
            self.smallest = found, tuple(tried)
        return found

    def excess(self, found: Estimate) -> int:
        """Bytes above the limit, of all phases that have any."""
        return sum(max(size - self._limit, 0) for size in _phases(found))

    def _estimate(self, tried: Sequence[Change]) -> Estimate:
        self.count += 1
        self._progress(self.count, self.most, ", ".join(map(str, tried)) or "the spec as it is")
        overrides = [override for change in tried for override in change.overrides]
        return estimate(self._spec, overrides, self._device)


def _phases(found: Estimate) -> Iterator[int]:
    for account in (found.training, found.validation):
        if account is not None:
            yield from account.phases.values()
