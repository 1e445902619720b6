"""Prompts that are longer than what reads them takes: their ends count for nothing, which one notice a run says."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from vader.errors import blame, cut
from vader.methods.context import RolloutContext
from vader.prompts import drawn
from vader.protocols import CutsPrompts, HoldsPrompts, Prompt, PromptSource
from vader.resolve.plan import Plan

_LOOKED_AT, _WORDS = 2000, 6
"""Prompts of a source that are looked at, and words that are shown of what is lost."""


def prompts_of(source: PromptSource) -> Sequence[Prompt]:
    """What a source holds or, where it does not say, some that it draws."""
    if isinstance(source, HoldsPrompts):
        with blame(f"prompt source {type(source).__name__}"):
            return source.held()[:_LOOKED_AT]
    return drawn(source, 200, random.Random(0))


def readers(plan: Plan, context: RolloutContext) -> dict[str, object]:
    """The backbone and the rewards of a context, by what a user calls them."""
    rewards = {f"reward {key!r}": reward for key, reward in context.rewards.items()}
    return {f"backbone {plan.spec.backbone.name}": context.backbone, **rewards}


def long_prompts(prompts: Iterable[Prompt], readers: Mapping[str, object]) -> str | None:
    """The notice; None when nothing is lost.

    Args:
        prompts: of a run.
        readers: as :func:`readers` gives them.
    """
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    said = []
    for name, reader in readers.items():
        if not isinstance(reader, CutsPrompts):
            continue
        with blame(name):
            lost = [(text, end) for text in texts if (end := reader.cut_off(text))]
        if lost:
            words = " ".join(lost[0][1].split()[:_WORDS])
            said.append(f"{name} does not see the end of {len(lost)} (of {cut(lost[0][0])}, from {words!r} on)")
    if not said:
        return None
    return f"of {len(texts)} prompts some are longer than what is taken: {'; '.join(said)}. Shorten them."
