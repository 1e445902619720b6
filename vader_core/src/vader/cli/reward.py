"""``vader reward train``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from vader.cli.arguments import Set
from vader.cli.output import console, hide_loading_bars

reward = typer.Typer(no_args_is_help=True, help="Rewards in latent space.")


@reward.callback()
def _group() -> None:
    """Rewards in latent space."""


@reward.command()
def train(
    spec: Annotated[str, typer.Argument(help="The reward's spec, a YAML file.")],
    set_: Set = None,
) -> None:
    """Train a reward that scores latents: on labelled clips, or to agree with another reward."""
    from rich.progress import Progress, TaskID

    from vader.cli.progress import PacedLines
    from vader.reward_training import train_reward
    from vader.reward_training.judging import AGREEMENT

    terminal = console()
    hide_loading_bars()
    tasks: dict[str, TaskID] = {}
    line = PacedLines(terminal)
    with Progress(console=terminal, disable=not terminal.is_terminal) as bars:

        def shown(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)
            line(f"{what}: {done} of {total}", force=done == total)

        made = train_reward(spec, list(set_ or []), shown)
    said = next(iter(AGREEMENT.values())) if made.judgements[0].rank is not None else "agreement"
    for one in made.judgements:
        terminal.print(f"timestep {one.timestep:6g}  {said} {one.agreement:.3f}")
    terminal.print(f"reward   {made.folder}\nreport   {made.folder / 'report.html'}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.add_typer(reward, name="reward")
