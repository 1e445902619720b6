"""``python -m benchmarks.align``: run the benchmark, or what is left of it, and write its results."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.align import planning, reporting, running

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.align", description=__doc__)
    parser.add_argument("--plan", type=Path, default=planning.HERE / "plan.yaml", help="what is run")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "align", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=planning.HERE / "results", help="folder of the results")
    parser.add_argument("--docs", type=Path, help="folder of the docs, to renew their tables and plots")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one processor (default: 2)")
    parser.add_argument("--only", nargs="*", metavar="VARIANT", help="run these variants alone")
    parser.add_argument("--sweep", action="store_true", help="choose learning rates: run the plan's sweep instead")
    parser.add_argument("--cost", action="store_true", help="only count what the plan will take")
    parser.add_argument("--report", action="store_true", help="only write the results of the runs that are done")
    options = parser.parse_args()
    plan = planning.load(options.plan)
    if options.sweep:  # its variants differ in their rate alone: nothing but the runs is counted, or put into the docs
        plan, options.docs = planning.sweep(plan), None
        options.runs, options.results = options.runs / "sweep", options.results / "sweep"
    plan = running.equalised(plan, options.runs, options.only)
    if options.cost:
        print(running.costs(plan, options.runs))
        return
    if not options.report:
        run_all(plan, options.runs, options.jobs, options.only)
        if not options.sweep:
            count_all(plan, options.runs, options.jobs, options.only)
    print(reporting.write(plan, options.runs, options.results, options.docs))


def run_all(plan: planning.Plan, home: Path, jobs: int, only: Sequence[str] | None = None) -> None:
    """Make every run that is not done, some at once, and say how far it is.

    Args:
        plan: the benchmark.
        home: folder of all runs.
        jobs: runs at once.
        only: variants, if not all.
    """
    home.mkdir(parents=True, exist_ok=True)
    todo = [run for run in plan.runs() if not only or run.name in only]
    start, done, total = time.perf_counter(), [0], sum(run.queries for run in todo)

    def report(run: planning.Run, future: Future[Any]) -> None:
        done[0] += run.queries
        said = "failed" if future.exception() else "done"
        spent = time.perf_counter() - start
        print(f"{done[0]:6d} of {total} queries, {spent:5.0f} s: {run.folder} {said}", flush=True)

    with _workers(jobs) as submit:
        futures = []
        for run in todo:
            futures.append(submit(running.execute, plan, run, home))
            futures[-1].add_done_callback(partial(report, run))
        for future in futures:
            future.result()
        submit(running.base_figures, plan, home).result()


def count_all(plan: planning.Plan, home: Path, jobs: int, only: Sequence[str] | None = None) -> None:
    """Count the operations and the bytes of every variant. Arguments as :func:`run_all`'s."""
    names = [name for name in plan.options.variants if not only or name in only]
    with _workers(jobs) as submit:
        counts = (running.count_operations, running.held)
        for future in [submit(count, plan, name, home) for name in names for count in counts]:
            future.result()


@contextmanager
def _workers(jobs: int) -> Iterator[Callable[..., Future[Any]]]:
    """Something that runs functions: so many processes of one thread each, or this process for one job."""
    if jobs == 1:
        yield _here
        return
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield pool.submit


def _here(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(function(*arguments))
    return future


if __name__ == "__main__":
    main()
