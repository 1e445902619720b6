"""Seeds by name: the same everywhere, different from each other."""

from __future__ import annotations

import itertools
import subprocess
import sys

from vader.diffusion.seeding import derive, stream


def test_is_pinned_so_that_old_runs_can_be_repeated() -> None:
    assert derive(0) == 4761921975702974394
    assert derive(7, "noise", 3, 1) == 2221276734484062661


def test_is_the_same_in_another_process() -> None:
    code = (
        "from vader.diffusion.seeding import derive, stream; "
        "print(derive(7, 'noise', 3), stream(7, 'prompts').random())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert (int(out[0]), float(out[1])) == (derive(7, "noise", 3), stream(7, "prompts").random())


def test_differs_by_seed_and_by_every_part_of_the_path() -> None:
    paths = [(), ("noise",), ("prompts",), *itertools.product(("noise", "prompts"), range(20), range(20))]
    seeds = [derive(seed, *path) for seed in range(5) for path in paths]
    assert len(set(seeds)) == len(seeds)


def test_neighbouring_parts_do_not_run_together() -> None:
    assert len({derive(1, 1, 23), derive(1, 12, 3), derive(11, 23), derive(112, 3), derive(1, 123)}) == 5


def test_fits_where_torch_and_numpy_want_a_seed() -> None:
    seeds = [derive(seed, "noise") for seed in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_a_stream_starts_anew_each_time_and_is_nobody_elses() -> None:
    first, again, other = stream(3, "prompts"), stream(3, "prompts"), stream(3, "frames")
    assert [first.random() for _ in range(5)] == [again.random() for _ in range(5)]
    assert stream(3, "prompts").random() != other.random()
