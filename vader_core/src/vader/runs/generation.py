"""``vader.generate``: clips from a spec, or from a run with its adapter."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from warnings import warn

import torch
from torch import Tensor

from vader.diffusion.frames import tile, write_clip
from vader.diffusion.gradient import no_gradient
from vader.errors import Problem, RunFolderError, SpecError, cut
from vader.paths import user_path
from vader.protocols import Prompt
from vader.resolve.validate import Spec
from vader.runs.display import MOST_SHOWN, clips_html, figure
from vader.runs.folder import written_scale
from vader.runs.long_prompts import long_prompts
from vader.runs.session import open_session
from vader.runs.shares import in_shares


@dataclass(frozen=True)
class Generated:
    """A clip: its prompt, its seed, its frames ``(f c h w)`` in [0, 1] on the CPU, and its file if it was written."""

    prompt: str
    seed: int
    frames: Tensor
    file: Path | None
    image: Path | None = None
    """The prompt's image."""
    fps: float = 8.0

    def _repr_html_(self) -> str:
        """In a notebook: the clip, playing."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "clip.mp4"
            write_clip(file, self.frames, self.fps, scale=written_scale(*self.frames.shape[-2:]))
            return figure([("", file.read_bytes())], f"{escape(self.prompt)} &middot; seed {self.seed}")


class Clips(list[Generated]):
    """A list of clips that shows them in a notebook."""

    def _repr_html_(self) -> str:
        return clips_html([clip._repr_html_() for clip in self[:MOST_SHOWN]], len(self))


def generate(
    source: Spec,
    prompts: Sequence[str | Prompt],
    *,
    seeds: Sequence[int] = (0,),
    adapter: str | Path | None = None,
    adapter_scale: float = 1.0,
    output: str | Path | None = None,
    file_type: str = "mp4",
    grid: bool = False,
    batch_size: int = 1,
    enlarge: int = 1,
    overrides: Sequence[str] = (),
    trust_code: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notice: Callable[[str], None] = warn,
) -> Clips:
    """Make clips: every prompt with every seed. The spec's rewards are not looked at.

    The processes that a launcher has started share the clips: each makes whole batches, so that every clip is that of
    one process, bit for bit. The main one writes and returns them; the others return nothing.

    Args:
        source: a spec in any form (base model, or the spec's initial adapter), or the path of a run folder (with its
            adapter).
        prompts: at least one; those of image-to-video are ``vader.Prompt(text, image=Path(...))``.
        seeds: of the noise, from 0 to 2^64 - 1, in the meaning that a validation's clips and diffusers' generators give
            them; a clip depends on its seed and prompt, not on the batch it is made in.
        adapter: an adapter's folder or .safetensors file, in place of the run's own.
        adapter_scale: of the adapter's update; 0 gives the base model's clip bit for bit.
        output: folder to write into; None writes nothing.
        file_type: "mp4", "gif" or "png".
        grid: also write ``grid.<file_type>``, one row a prompt and one column a seed.
        batch_size: clips made at once.
        enlarge: whole-number enlargement of the written clips.
        overrides: dotted ``path=value`` strings.
        trust_code: run code that a spec in a file, or another user's run folder, names outside its folder.
        progress: called, in the main process, with clips done and clips in all.
        notice: called, in the main process, with what a user should know of the prompts: that some are cut.

    Raises:
        ValueError: no prompt, no seed, or an unknown file type.
        SpecError: the spec is wrong; or a prompt's image is, or it lacks one that the model needs.
        WeightsError: weights or adapter cannot be loaded.
    """
    if isinstance(prompts, str | Prompt):
        message = f"found {cut(str(prompts))}, one prompt; expected a list of prompts, such as ['a fox']."
        raise SpecError([Problem("prompts", message)], "the arguments")
    wrong_prompt = [one for one in prompts if not isinstance(one, str | Prompt)]
    if wrong_prompt:
        message = f"found {cut(wrong_prompt[0])}; expected texts or vader.Prompt."
        raise SpecError([Problem("prompts", message)], "the arguments")
    if isinstance(seeds, int | str):
        raise SpecError([Problem("seeds", f"found {cut(seeds)}; expected a list, such as [0].")], "the arguments")
    if not prompts or not seeds:
        raise ValueError("generate needs at least one prompt and one seed.")
    if file_type not in ("mp4", "gif", "png"):
        raise ValueError(f"cannot write clips as {file_type!r}; expected mp4, gif or png.")
    wrong = [seed for seed in seeds if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64]
    if wrong:
        raise SpecError([Problem("seed", f"expected whole numbers from 0 to 2^64 - 1; found {wrong[0]!r}.")])
    asked = [Prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    session = open_session(source, overrides, adapter, scored=False, prompts=asked, trust_code=trust_code)
    session.set_scale(adapter_scale)
    context = session.context
    wanted = [(prompt, seed) for prompt in asked for seed in seeds]
    folder = user_path(output) if output is not None else None
    if folder is not None and session.engine.is_main:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot write clips to {str(folder)!r}: {error.strerror}.") from error
    long = long_prompts(asked, session.readers)
    if long is not None and session.engine.is_main:
        notice(long)
    fps = session.plan.video.fps or 8.0

    @torch.no_grad()
    def make(rows: range) -> list[Tensor]:
        conditioning = session.encode([wanted[row][0] for row in rows])
        noise = [wanted[row][1] for row in rows]
        latents = context.sample(conditioning, noise, no_gradient(len(context.sampler.timesteps)))
        return [clip.clone() for clip in context.decode(latents, None).cpu()]

    made = Clips()
    with session.engine.watched():
        for index, clip in enumerate(in_shares(session.engine, len(wanted), batch_size, make)):
            prompt, seed = wanted[index]
            file = folder / f"clip-{index:03d}-seed-{seed}.{file_type}" if folder is not None else None
            if file is not None:
                write_clip(file, clip, fps, scale=enlarge)
            made.append(Generated(prompt.text, seed, clip, file, prompt.image, fps))
            progress(len(made), len(wanted))
    if grid and folder is not None and made:
        write_clip(folder / f"grid.{file_type}", tile([clip.frames for clip in made], len(seeds)), fps, scale=enlarge)
    return made
