"""Clips joined into one, by ffmpeg: side by side, or as a GIF. Imports no torch."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from vader.errors import RunFolderError

_SECONDS = 60
_WIDTH = 2048
"""Pixels that a row may be wide, for players; wider clips are made smaller."""
_ENCODINGS = {
    ".mp4": ["-c:v", "libx264", "-preset", "veryfast", "-crf", "14", "-pix_fmt", "yuv420p", "-movflags", "+faststart"],
    ".gif": ["-loop", "0"],
}
ENDINGS = tuple(_ENCODINGS)
"""Of the files that can be made."""


def grid(rows: Sequence[Sequence[Path]], ending: str) -> bytes:
    """Videos of one size side by side, as one.

    Args:
        rows: the files, row by row, as many in each.
        ending: of the file that is made, ``.mp4`` or ``.gif``.

    Raises:
        RunFolderError: ffmpeg cannot join them.
    """
    return _joined(tuple((str(path), path.stat().st_mtime_ns) for row in rows for path in row), len(rows), ending)


@lru_cache(maxsize=32)
def _joined(files: tuple[tuple[str, int], ...], rows: int, ending: str) -> bytes:
    """Videos of one size in a grid, row by row. Kept: a served report shows the same ones again and again.

    Args:
        files: paths, and the times (ns) that make them other files.
        rows: of the grid.
        ending: of the file, ``.mp4`` or ``.gif``.

    Raises:
        RunFolderError: ffmpeg cannot join them.
    """
    import imageio_ffmpeg

    columns = len(files) // rows
    chains = [f"[{i}:v]scale='min(iw,{_WIDTH // columns // 2 * 2})':-2[c{i}]" for i in range(len(files))]
    for row in range(rows):
        inputs = "".join(f"[c{row * columns + column}]" for column in range(columns))
        chains.append(f"{inputs}{f'hstack=inputs={columns}' if columns > 1 else 'null'}[r{row}]")
    last = f"vstack=inputs={rows}" if rows > 1 else "null"
    chains.append("".join(f"[r{row}]" for row in range(rows)) + last + "[all]")
    if ending == ".gif":
        chains += ["[all]split[a][b]", "[a]palettegen[p]", "[b][p]paletteuse[out]"]
    target = "[out]" if ending == ".gif" else "[all]"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"joined{ending}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-nostdin"]
        command += [part for path, _ in files for part in ("-i", path)]
        command += ["-filter_complex", ";".join(chains), "-map", target, *_ENCODINGS[ending], str(made)]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS)
            return made.read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
            raise RunFolderError(f"clips cannot be joined: {said[-1] if said else error}") from error
