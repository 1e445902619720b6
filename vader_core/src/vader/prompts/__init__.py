"""Built-in prompt sources, registered through the same entry points as anyone's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from vader.errors import ComponentError, blame, cut
from vader.protocols import Prompt, PromptSource


def drawn(source: PromptSource, n: int, rng: random.Random) -> list[Prompt]:
    """``n`` prompts of a source, judged.

    Raises:
        ComponentError: it raised, or gave something else.
    """
    what = f"prompt source {type(source).__name__}"
    with blame(what):
        given: Any = source.draw(n, rng)
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ComponentError(f"{what} gave {cut(given)}; expected a list of {n} vader.Prompt.")
    wrong = next((one for one in given if not (isinstance(one, Prompt) and isinstance(one.text, str))), None)
    if wrong is not None or None in given:
        raise ComponentError(f"{what} gave {cut(wrong)} for a prompt; expected vader.Prompt(text).")
    if len(given) != n:
        raise ComponentError(f"{what} gave {len(given)} prompts when asked for {n}; expected exactly as many.")
    return list(given)


def draw_evenly(prompts: Sequence[Prompt], n: int, rng: random.Random) -> list[Prompt]:
    """``n`` of ``prompts`` in random order; none comes twice before every one has come once."""
    drawn: list[Prompt] = []
    while len(drawn) < n:
        deck = list(prompts)
        rng.shuffle(deck)
        drawn += deck
    return drawn[:n]


def draw_weighted(prompts: Sequence[Prompt], weights: Sequence[float], n: int, rng: random.Random) -> list[Prompt]:
    """``n`` of ``prompts`` in random order, each as often as its weight says.

    A prompt with the share s of all weight comes n * s times, rounded up or down at random: systematic sampling, which
    for equal weights repeats none before every one has come.

    Args:
        prompts: what is drawn from.
        weights: one for each, above 0.
        n: how many, at least 1.
        rng: the only source of chance.

    Source: Madow and Madow 1944, "On the theory of systematic sampling".
    """
    order = list(range(len(prompts)))
    rng.shuffle(order)
    ends = list(accumulate(weights[i] for i in order))
    gap = ends[-1] / n
    place, drawn = rng.random() * gap, list[Prompt]()
    for i, end in zip(order, ends, strict=True):
        while place < end and len(drawn) < n:
            drawn.append(prompts[i])
            place += gap
    drawn += [prompts[order[-1]]] * (n - len(drawn))  # where rounding has carried the last place past the end
    rng.shuffle(drawn)
    return drawn
