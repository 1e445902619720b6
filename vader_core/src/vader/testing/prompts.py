"""Checks of prompt sources."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from vader.protocols import NamedPromptSets, Prompt
from vader.testing.checks import Failed, NotApplicable, check, expect
from vader.testing.subject import Subject

_CODE = """\
import json, random, sys
given = json.load(sys.stdin)
from vader.testing.subject import Subject
source = Subject("prompts", given["name"], given["options"]).build()
print(json.dumps([prompt.text for prompt in source.draw(8, random.Random(3))]))
"""


def _draw(subject: Subject, n: int, seed: int) -> list[Prompt]:
    drawn: list[Prompt] = subject.live().draw(n, random.Random(seed))
    return drawn


@check("prompts")
def draws_are_lists_of_prompts(subject: Subject) -> None:
    """It draws as many prompts as asked for, from 1 to more than it holds, as a list of vader.Prompt."""
    for n in (1, 2, 7, 50):
        drawn = _draw(subject, n, 0)
        expect(isinstance(drawn, list), f"draw gave {type(drawn).__name__}; expected a list.")
        expect(len(drawn) == n, f"draw({n}) gave {len(drawn)} prompts.")
        odd = [type(prompt).__name__ for prompt in drawn if not isinstance(prompt, Prompt)]
        expect(not odd, f"draw gave {odd[0] if odd else ''}; expected vader.Prompt.")


@check("prompts", needs=("draws_are_lists_of_prompts",))
def prompts_have_text(subject: Subject) -> None:
    """Every prompt has text."""
    blank = [prompt for prompt in _draw(subject, 50, 0) if not isinstance(prompt.text, str) or not prompt.text.strip()]
    expect(not blank, f"{len(blank)} of 50 prompts have no text.")


@check("prompts", needs=("draws_are_lists_of_prompts",))
def metadata_is_json(subject: Subject) -> None:
    """What a prompt carries besides its text is a mapping of JSON values with names for keys."""
    for prompt in _draw(subject, 50, 0):
        data: Any = prompt.metadata
        expect(isinstance(data, Mapping), f"metadata is {type(data).__name__}; expected a mapping.")
        try:
            same = json.loads(json.dumps(dict(data), allow_nan=False)).keys() == data.keys()
        except (TypeError, ValueError) as error:
            raise Failed(f"metadata {data!r} is not JSON: {error}.") from error
        expect(same, f"metadata {data!r} has keys that are no text.")


@check("prompts", needs=("draws_are_lists_of_prompts",))
def draws_are_seeded(subject: Subject) -> None:
    """The same state of the generator gives the same prompts, in any instance: so ranks agree."""
    first, other = (subject.build().draw(8, random.Random(3)) for _ in range(2))
    expect(
        _texts(first) == _texts(other), f"seed 3 gives {_texts(first)[:3]} and {_texts(other)[:3]} in two instances."
    )


@check("prompts", needs=("draws_are_seeded",))
def draws_have_no_memory(subject: Subject) -> None:
    """What was drawn before changes nothing: so a run resumes."""
    source = subject.build()
    first = _texts(source.draw(8, random.Random(3)))
    source.draw(5, random.Random(4))
    again = _texts(source.draw(8, random.Random(3)))
    expect(first == again, f"seed 3 gives {first[:3]}, and after other draws {again[:3]}. Keep no state.")


@check("prompts", needs=("draws_are_seeded",))
def seeds_matter(subject: Subject) -> None:
    """Another state of the generator gives other prompts."""
    if len(set(_texts(_draw(subject, 200, 0)))) == 1:
        raise NotApplicable("it holds one prompt.")
    draws = {tuple(_texts(_draw(subject, 8, seed))) for seed in range(8)}
    expect(len(draws) > 1, "eight seeds give the same prompts. Draw with the generator that draw is given.")


@check("prompts", needs=("draws_are_seeded", "seeds_matter"))
def draws_go_on(subject: Subject) -> None:
    """Drawing twice from one generator goes on: it moves the generator it is given."""
    rng = random.Random(3)
    draws = {tuple(_texts(subject.live().draw(8, rng))) for _ in range(6)}
    expect(len(draws) > 1, "six draws from one generator are equal. Draw with it, not with a copy.")


@check("prompts")
def named_sets_hold_prompts(subject: Subject) -> None:
    """The sets that it offers by name hold prompts, at least one each, none twice in a set."""
    able = subject.ability(NamedPromptSets)
    if able is None:
        raise NotApplicable("it offers no named sets.")
    for name, held in able.named_sets().items():
        expect(isinstance(name, str) and bool(name.strip()), f"a set is called {name!r}; expected a name.")
        odd = [type(prompt).__name__ for prompt in held if not isinstance(prompt, Prompt)]
        expect(not odd, f"set {name!r} holds {odd[0] if odd else ''}; expected vader.Prompt.")
        texts = _texts(list(held))
        expect(bool(texts) and all(text.strip() for text in texts), f"set {name!r} is empty, or a prompt has no text.")
        expect(len(set(texts)) == len(texts), f"set {name!r} holds a prompt twice.")


@check("prompts", needs=("draws_are_lists_of_prompts",))
def global_random_state_is_left_alone(subject: Subject) -> None:
    """It draws nothing from the global random generators of torch, numpy and Python."""
    from vader.testing.reward import unmoved

    unmoved(lambda: _draw(subject, 8, 0))


@check("prompts", needs=("draws_are_seeded",))
def processes_agree(subject: Subject) -> None:
    """Another process, with another hash seed, draws the same prompts."""
    if not isinstance(subject.given, str):
        raise NotApplicable("it is not known by a name; give a registered name or ./file.py:Name.")
    given = json.dumps({"name": subject.given, "options": subject.chosen_options})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    own = _texts(subject.build().draw(8, random.Random(3)))
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CODE],
            input=given,
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        other = json.loads(done.stdout.splitlines()[-1])
        expect(own == other, f"this process draws {own[:3]}, another one {other[:3]}. Do not iterate over a set.")


def _texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]
