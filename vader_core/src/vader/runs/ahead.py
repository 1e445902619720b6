"""Prompts that a run is going to ask for: encoded before its first step, they make room for what comes then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vader.diffusion.conditioning import ConditioningCache
from vader.errors import blame
from vader.protocols import Backbone, HoldsPrompts, Prompt, ReleasesTextEncoder
from vader.resolve.plan import Plan
from vader.runs.validation import chosen


def coming(
    plan: Plan, encode: ConditioningCache, of_step: Callable[[int], Sequence[Sequence[Prompt]]], first: int
) -> list[Prompt]:
    """The prompts of a run's optimizer steps and validations.

    Args:
        plan: of the run.
        encode: conditioning of prompts.
        of_step: gives those of an optimizer step, by micro-step.
        first: the step that comes next.

    Returns:
        None at all where the prompt source does not hold its prompts, or where there is no room for the conditioning of
        all.
    """
    spec, source = plan.spec, plan.prompts
    steps = range(first, spec.train.steps)
    if not steps or not isinstance(source, HoldsPrompts):
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
    """Encode prompts, then let go what encodes them; yields how many are done and how many there are.

    A backbone that cannot let it go encodes when a prompt's turn comes.
    """
    if prompts and isinstance(backbone, ReleasesTextEncoder):
        yield from encode.ahead(prompts)
        if encode.keeps(prompts):
            backbone.release_text_encoder()
