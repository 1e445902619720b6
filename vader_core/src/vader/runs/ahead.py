"""Prompts that a run is going to ask for: encoded before its first step, they make room for what comes then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vader.diffusion.conditioning import ConditioningCache
from vader.errors import blame
from vader.protocols import Backbone, HoldsPrompts, Prompt, ReleasesTextEncoder
from vader.resolve.plan import Plan
from vader.runs.validation import chosen


def coming(
    plan: Plan,
    backbone: Backbone,
    encode: ConditioningCache,
    of_step: Callable[[int], Sequence[Sequence[Prompt]]],
    first: int,
) -> list[Prompt]:
    """The prompts of a run's optimizer steps and validations.

    Args:
        plan: of the run.
        backbone: of the run.
        encode: conditioning of prompts.
        of_step: gives those of an optimizer step, by micro-step.
        first: the step that comes next.

    Returns:
        None at all where the backbone cannot let its text encoder go, the prompt source does not hold its prompts, or
        there is no room for the conditioning of all.
    """
    spec, source = plan.spec, plan.prompts
    steps = range(first, spec.train.steps)
    if not (steps and isinstance(backbone, ReleasesTextEncoder) and isinstance(source, HoldsPrompts)):
        return []
    validated = chosen(spec.validation, plan.validation_prompts)[0] if spec.validation.clips else []
    with blame(f"prompt source {type(source).__name__}"):
        held = list(source.held())
    of_first = of_step(first)
    drawn = len(steps) * sum(map(len, of_first))
    if not encode.has_room(of_first[0][0], min(drawn, len(held)) + len(validated)):
        return []
    if drawn < len(held):
        held = [prompt for step in steps for batch in of_step(step) for prompt in batch]
    return [*held, *validated]


def encode_ahead(backbone: Backbone, encode: ConditioningCache, prompts: Sequence[Prompt]) -> Iterator[tuple[int, int]]:
    """Encode what :func:`coming` gives, then let go what encodes; yields how many are done and how many there are."""
    yield from encode.ahead(prompts)
    if prompts and encode.keeps(prompts) and isinstance(backbone, ReleasesTextEncoder):
        backbone.release_text_encoder()
