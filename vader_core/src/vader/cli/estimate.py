"""``vader estimate``. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vader.cli.arguments import Set, Trust

if TYPE_CHECKING:
    from vader.estimation import Estimate, Saving

_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
_UNCOUNTED = "the device's own context, workspaces inside operations, fragmentation of the allocator"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(estimate)


def estimate(
    spec: Annotated[str, typer.Argument(help="The run spec, a YAML file.")],
    set_: Set = None,
    budget: Annotated[
        str | None, typer.Option(help="Memory of the device, such as 16GB; exit code 1 if too little.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cuda or cpu. Default: the spec's, a GPU where that is auto.")
    ] = None,
    knobs: Annotated[bool, typer.Option(help="Also estimate each change that may save memory.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    trust_code: Trust = False,
) -> None:
    """Count the memory of a training run from shapes: no weights, no GPU, no connection needed."""
    from vader.errors import Problem, SpecError

    limit = None if budget is None else _bytes(budget)
    if device not in (None, "cuda", "cpu"):
        raise SpecError([Problem("--device", f"expected cuda or cpu; found {device!r}.")], "the command")
    typer.echo("counting ...", err=True)
    from vader.estimation import estimate as count
    from vader.estimation import savings
    from vader.spec import RunSpec
    from vader.spec.reading import read_source

    overrides = list(set_ or [])
    found = count(spec, overrides, device, trust_code=trust_code)
    cheaper = (
        savings(
            found,
            RunSpec.model_validate(read_source(spec, overrides).data),
            (),
            lambda what: typer.echo(f"with {what} ...", err=True),
        )
        if knobs
        else []
    )
    if as_json:
        typer.echo(json.dumps(_data(found, cheaper, limit), indent=2))
    else:
        typer.echo("\n".join(_lines(found, cheaper if knobs else None, limit)))
    if limit is not None and found.total > limit:
        raise typer.Exit(1)


def _bytes(text: str) -> int:
    """``16GB`` (10^9) or ``16GiB`` (2^30) in bytes."""
    from vader.errors import Problem, SpecError

    read = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB|MiB|GiB)", text)
    if read is None:
        message = f"expected a number with MB, GB, MiB or GiB, such as 16GB; found {text!r}."
        raise SpecError([Problem("--budget", message)], "the command")
    return int(float(read[1]) * _UNITS[read[2]])


def _size(count: int, total: int | None = None) -> str:
    """Bytes in GB or MB, whichever suits the total."""
    large = (count if total is None else total) >= 10**9
    return f"{count / 10**9:.2f} GB" if large else f"{count / 10**6:.2f} MB"


def _lines(found: Estimate, cheaper: Sequence[Saving] | None, limit: int | None) -> list[str]:
    """The table, what could not be counted, whether it fits, and what would save."""
    lines = [*_table(found), "", *_remarks(found)]
    if limit is not None:
        left = limit - found.total
        spare, lacking = _size(left, found.total), _size(-left, found.total)
        verdict = f"fits, {spare} to spare" if left >= 0 else f"does not fit, {lacking} too much"
        lines.append(f"{_size(found.total)} of {_size(limit, found.total)}: {verdict}.")
    return lines if cheaper is None else [*lines, "", *_changes(found, cheaper)]


def _table(found: Estimate) -> list[str]:
    """A row for all that takes memory; weights first, the largest first."""
    account, total = found.decisive, found.total
    order = sorted(account.most.items(), key=lambda item: (not item[0].startswith("weights"), -item[1]))
    cells = [(row, _size(account.peak.rows.get(row, 0), total), _size(most, total)) for row, most in order]
    shown = [row for row in cells if row[2] != _size(0, total)]
    rows = [("", "at the peak", "at most"), *shown, ("total", _size(total), "")]
    width = max(len(row[0]) for row in rows)
    return [f"{name:<{width}}  {at:>12}  {most:>12}".rstrip() for name, at, most in rows]


def _remarks(found: Estimate) -> list[str]:
    """When the peak is, and what the table leaves out."""
    validating = found.decisive is found.validation
    where = "validation" if validating else "an optimizer step"
    lines = [f"The peak is in {where}, while this runs: {found.decisive.peak.phase}."]
    other = found.training if validating else found.validation
    if other is not None:
        what = "An optimizer step" if validating else "Validation"
        lines.append(f"{what} takes {_size(other.peak.total, found.total)}.")
    lines += [f"On the host, not counted here: {name}, {_size(size)}." for name, size in found.host.items()]
    lines += [f"NOT COUNTED  {name}: {reason}" for name, reason in found.not_counted.items()]
    return [*lines, f"Never counted: {_UNCOUNTED}."]


def _changes(found: Estimate, cheaper: Sequence[Saving]) -> list[str]:
    """What single changes would save, the most first."""
    if not cheaper:
        return ["No single change of the spec that was tried saves memory."]
    width = max(len(", ".join(saving.changes)) for saving in cheaper)
    rows = [
        f"  {', '.join(saving.changes):<{width}}  {_size(found.total - saving.total, found.total):>10} less, "
        f"{_size(saving.total, found.total)} in all"
        for saving in cheaper
    ]
    return ["What a single change would save, each estimated:", *rows]


def _data(found: Estimate, cheaper: Sequence[Saving], limit: int | None) -> dict[str, Any]:
    """The same as plain values, in bytes."""
    accounts = {"training": found.training, "validation": found.validation}
    return {
        "device": found.device,
        "total": found.total,
        "budget": limit,
        "fits": None if limit is None else found.total <= limit,
        "accounts": {
            name: {"phase": account.peak.phase, "at_peak": dict(account.peak.rows), "at_most": dict(account.most)}
            for name, account in accounts.items()
            if account is not None
        },
        "not_counted": dict(found.not_counted),
        "host": dict(found.host),
        "changes": [{"set": list(saving.changes), "total": saving.total} for saving in cheaper],
    }
