"""Caches of diffusers that leave out blocks of a denoiser where little changes from step to step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from vader.errors import Problem, SpecError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vader.diffusion.guidance import Predict
    from vader.protocols import Branch, Conditioning
    from vader.shapes import Latents


class BlockCache:
    """A :data:`vader.diffusion.shortcuts.Cache` by the denoiser's own ``enable_cache``.

    It is there for one rollout's steps without gradient, and begins anew with each.

    Args:
        denoiser: of diffusers.
        name: class of the configuration in diffusers, such as FirstBlockCacheConfig.
        options: of the configuration.

    Raises:
        SpecError: the denoiser has no caches, or the configuration no such options.
    """

    def __init__(self, denoiser: nn.Module, name: str, options: Mapping[str, Any]) -> None:
        import diffusers
        from diffusers.models.cache_utils import CacheMixin

        if not isinstance(denoiser, CacheMixin):
            message = f"{type(denoiser).__name__} has no enable_cache. Remove it; rollout.reuse needs none."
            raise SpecError([Problem("rollout.cache", message)])
        kind = getattr(diffusers, name)
        known = {field.name for field in fields(kind)}
        unknown = sorted(set(options) - known)
        if unknown:
            message = f"{name} of diffusers has no option {', '.join(unknown)}. Known: {', '.join(sorted(known))}."
            raise SpecError([Problem("rollout.cache.options", message)])
        self._denoiser, self._timestep = denoiser, 0.0
        given = {"current_timestep_callback": lambda: self._timestep} if "current_timestep_callback" in known else {}
        self._config = kind(**given, **options)

    @contextmanager
    def __call__(self, predict: Predict, conditioning: Conditioning) -> Iterator[Predict]:
        denoiser: Any = self._denoiser
        tells_time = hasattr(self._config, "current_timestep_callback")

        def cached(latents: Latents, timestep: Tensor, branch: Branch) -> Tensor:
            if tells_time:
                self._timestep = float(timestep[0])
            name = "positive" if branch is conditioning.positive else "negative"
            with denoiser.cache_context("both" if len(latents) > len(conditioning) else name):
                return predict(latents, timestep, branch)

        denoiser.enable_cache(self._config)
        try:
            yield cached
        finally:
            denoiser.disable_cache()
