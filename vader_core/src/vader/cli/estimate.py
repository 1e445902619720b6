"""``vader estimate``. Nothing heavy is imported before it runs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vader.cli.arguments import Set, Trust

if TYPE_CHECKING:
    from vader.estimation import Estimate, Fit, Saving

_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
_COSTS = {
    "once": "time outside of training steps",
    "time": "time",
    "rounding": "rounded numbers",
    "gradient": "parts of the gradient",
    "task": "a change of what is trained",
}
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
    fit: Annotated[
        str | None,
        typer.Option(help="Find the cheapest changes with which it fits, such as 24GB; exit code 1 if none do."),
    ] = None,
    write: Annotated[Path | None, typer.Option(help="With --fit: write the spec with these changes to a file.")] = None,
    knobs: Annotated[bool, typer.Option(help="Also estimate each change that may save memory.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    trust_code: Trust = False,
) -> None:
    """Count the memory of a training run from shapes: no weights, no GPU, no connection needed."""
    from vader.errors import Problem, SpecError

    limit = None if budget is None else _bytes(budget)
    if device not in (None, "cuda", "cpu"):
        raise SpecError([Problem("--device", f"expected cuda or cpu; found {device!r}.")], "the command")
    if fit is not None:
        if budget is not None:
            raise SpecError([Problem("--budget", "--fit says it already; leave one of them out.")], "the command")
        _fit(spec, list(set_ or []), _bytes(fit, "--fit"), device, write, as_json=as_json, trust_code=trust_code)
        return
    if write is not None:
        raise SpecError([Problem("--write", "it writes what --fit finds; add --fit SIZE.")], "the command")
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


def _fit(
    spec: str,
    overrides: list[str],
    limit: int,
    device: str | None,
    write: Path | None,
    *,
    as_json: bool,
    trust_code: bool,
) -> None:
    """Search, say what was found, and write it."""
    from vader.errors import RunFolderError
    from vader.estimation import fit_memory

    if write is not None and write.exists():
        raise RunFolderError(f"{str(write)!r} exists. Take another name for --write.")
    found = fit_memory(spec, limit, overrides, device, _Progress(), trust_code=trust_code)
    if as_json:
        fitted = {"set": found.overrides, "costs": [change.costs for change in found.changes]}
        before = {"total_before": found.before.total, "fit": fitted}
        typer.echo(json.dumps(_data(found.after, (), limit) | before, indent=2))
    else:
        typer.echo("\n".join([*_table(found.after), "", *_remarks(found.after), "", *_fitted(spec, found)]))
    if not found.fits:
        raise typer.Exit(1)
    if write is not None:
        _write(write, spec, [*overrides, *found.overrides], found)


class _Progress:
    """Says which variant is counted, and how long the others may take."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, count: int, most: int, what: str) -> None:
        left = (time.monotonic() - self._start) / (count - 1) * (most - count + 1) if count > 1 else None
        said = f", at most {left:.0f} s left" if left is not None else ""
        typer.echo(f"variant {count} of at most {most}{said}: {what} ...", err=True)


def _fitted(spec: str, found: Fit) -> list[str]:
    """Whether it fits, with which changes, and the command that has them."""
    before, after, limit = found.before.total, found.after.total, found.limit
    of = f"{_size(after, before)} of {_size(limit, before)}"
    if not found.changes:
        return [f"{of}: fits as it is." if found.fits else f"{of}: does not fit, and no change that was tried helps."]
    if found.fits:
        lines = [f"{of}: fits with these changes of the spec, which takes {_size(before)} without:"]
    else:
        lines = [f"Nothing that was tried fits. The smallest reached is {of}, with these changes of the spec:"]
    rows = [(f"  --set {override}", change.costs) for change in found.changes for override in change.overrides]
    width = max(len(row) for row, _ in rows)
    lines += [f"{row:<{width}}   costs {_COSTS[costs]}" for row, costs in rows]
    if found.fits:
        lines += ["", " ".join(["vader train", spec, *(f"--set {override}" for override in found.overrides)])]
    return lines


def _write(path: Path, spec: str, overrides: list[str], found: Fit) -> None:
    """The spec as it was written, with the changes.

    Raises:
        RunFolderError: it cannot be written.
    """
    import yaml

    from vader.errors import RunFolderError
    from vader.spec.reading import read_source
    from vader.storage import write_text

    text = yaml.safe_dump(read_source(spec, overrides).data, sort_keys=False, allow_unicode=True, width=120)
    said = f"# {spec}, made to fit {_size(found.limit)}: {_size(found.after.total)} by vader estimate.\n"
    try:
        write_text(path, said + text)
    except OSError as error:
        raise RunFolderError(f"cannot write {str(path)!r}: {error.strerror}.") from error
    typer.echo(f"wrote {path}")


def _bytes(text: str, option: str = "--budget") -> int:
    """``16GB`` (10^9) or ``16GiB`` (2^30) in bytes."""
    from vader.errors import Problem, SpecError

    read = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB|MiB|GiB)", text)
    if read is None:
        message = f"expected a number with MB, GB, MiB or GiB, such as 16GB; found {text!r}."
        raise SpecError([Problem(option, message)], "the command")
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
