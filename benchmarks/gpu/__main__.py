"""Runs every part, each in a process of its own with a time limit; writes ``gpu.json`` and ``gpu.md``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.parts import PARTS, facts

LIMITS = {"tests": 100.0, "1.3b": 235.0, "14b": 130.0, "estimates": 420.0}
"""Seconds for each part. Estimates run beside the others."""
_GB = 1e9


def start(name: str, out: Path, dry: bool) -> subprocess.Popen[str]:
    """Begin a part."""
    command = [sys.executable, "-m", "benchmarks.gpu.parts", name, str(out), *(["--dry"] if dry else [])]
    with (out / f"{name}.err").open("w") as errors:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)


def finish(process: subprocess.Popen[str], limit: float) -> dict[str, Any]:
    """What a part found, or why it found nothing."""
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"error": f"not done within {limit:.0f} s"}
    lines = said.strip().splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"error": f"ended with exit code {process.returncode}"}
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"`{found['facts'].get('gpu', 'no GPU')}`, torch {found['facts']['versions'].get('torch')}", ""]
    lines += ["| run | peak allocated | estimate | seconds | in rollout | decode | reward | backward | outside |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for size in ("1.3b", "14b"):
        part = found["parts"].get(size, {})
        if "error" in part:
            lines.append(f"| {size} | {part['error']} | | | | | | | |")
            continue
        for name, row in part.items():
            said = found["parts"].get("estimates", {}).get(f"{size} {name}", {})
            guess = f"{said['total'] / _GB:.1f} GB" if "total" in said else str(said.get("error", ""))[:60]
            if "error" in row:
                lines.append(f"| {size} {name} | {row['error'][:80]} | {guess} | | | | | | |")
                continue
            phases = [row.get(f"time/{phase}", 0.0) for phase in ("rollout", "decode", "reward", "backward")]
            whole = row["time/step"]
            cells = [f"{row['memory/peak_bytes'] / _GB:.1f} GB", guess, f"{whole:.2f}"]
            cells += [f"{phase:.2f}" for phase in phases]
            cells += [f"{100 * (whole - sum(phases)) / whole:.1f} %"]
            lines.append(f"| {size} {name} | {' | '.join(cells)} |")
    done = found["parts"].get("tests", {})
    lines += ["", f"Tests on the device: {json.dumps(done.get('said', done)[-1:] if 'said' in done else done)}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line: ``python -m benchmarks.gpu``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    parser.add_argument("--dry", action="store_true", help="toy sizes, on a CPU")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS), help="of the benchmark")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    began, found = time.monotonic(), {"facts": facts(), "parts": {}}
    beside = start("estimates", out, arguments.dry) if "estimates" in arguments.parts else None
    for name in [part for part in ("tests", "1.3b", "14b") if part in arguments.parts]:
        found["parts"][name] = finish(start(name, out, arguments.dry), LIMITS[name])
        (out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    if beside is not None:
        found["parts"]["estimates"] = finish(beside, max(1.0, LIMITS["estimates"] - (time.monotonic() - began)))
    found["seconds"] = time.monotonic() - began
    (out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    (out / "gpu.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
