"""Methods that are wrong in one way each: the check that must catch it -> the method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from vader import Batch, Loss, Options
from vader.methods.forward_process import JudgedClips, drawn_clips, judged_clips
from vader.methods.rounds import restored, stored


class Sound:
    """Keeps the contract: the denoising loss of its own clips, weighted by their advantages, twice for each round."""

    Options = Options
    needs_gradient = False
    group_size, inner_epochs, passes = 2, 2, 2

    def __init__(self, options: Any, context: Any) -> None:
        self.context = context
        self.rounds: list[JudgedClips] = []
        self.scale = 1.0

    @classmethod
    def validate(cls, options: Any, spec: Any, sampler: Any) -> Any:
        """Two clips a prompt."""
        return [("train.batch_size", "expected 4 or more.")] if spec.train.batch_size < 4 else []

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """Two draws for each batch."""
        if update == 0:
            self.rounds = self.collect(batches)
            self.scale *= 0.9
        for batch, clips in zip(batches, self.rounds, strict=True):
            for draw in range(self.passes):
                yield self.loss(batch, clips, f"{update}/{draw}")

    def collect(self, batches: Sequence[Batch]) -> list[JudgedClips]:
        """The clips of a round."""
        return judged_clips(self.context, batches, "prompt", 5.0)

    def loss(self, batch: Batch, clips: JudgedClips, draw: str) -> Loss:
        """Of one draw."""
        noised = drawn_clips(self.context, batch, clips.latents, draw)
        error = noised.error(self.predict(noised, batch))
        value = self.scale * (clips.advantages * error).mean() / self.passes
        return Loss(value, clips.scores, clips.reward, {"error": error.mean().detach()})

    def predict(self, noised: Any, batch: Batch) -> Any:
        """Of the denoiser that the context gives."""
        return self.context.predict(noised.latents, noised.timestep, batch.conditioning.positive)

    def state_dict(self) -> dict[str, Any]:
        """The round, and how often there was one."""
        return {"rounds": stored(self.rounds), "scale": self.scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.rounds, self.scale = restored(JudgedClips, state["rounds"], "cpu"), state["scale"]


class Muttering(Sound):
    @classmethod
    def validate(cls, options: Any, spec: Any, sampler: Any) -> Any:
        return ["too few clips"] if spec.train.batch_size < 4 else []


class Fractional(Sound):
    passes: Any = 2.0

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        self.passes = 2
        return super().losses(batches, update)


class Missing(Sound):
    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        return super().losses(batches[: len(batches) - update], update)


class PerClip(Sound):
    def loss(self, batch: Batch, clips: JudgedClips, draw: str) -> Loss:
        found = super().loss(batch, clips, draw)
        return replace(found, value=found.value.expand(1))


class Flat(Sound):
    def loss(self, batch: Batch, clips: JudgedClips, draw: str) -> Loss:
        found = super().loss(batch, clips, draw)
        return replace(found, value=0 * found.value)


class Clinging(Sound):
    def loss(self, batch: Batch, clips: JudgedClips, draw: str) -> Loss:
        found = super().loss(batch, clips, draw)
        return replace(found, metrics={"value": found.value * 1})


class AllAtOnce(Sound):
    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        return iter(list(super().losses(batches, update)))


class PastTheContext(Sound):
    def predict(self, noised: Any, batch: Batch) -> Any:
        backbone = self.context.backbone
        return backbone.predict(backbone.denoiser, noised.latents, noised.timestep, batch.conditioning.positive)


class OwnBackward(Sound):
    def loss(self, batch: Batch, clips: JudgedClips, draw: str) -> Loss:
        found = super().loss(batch, clips, draw)
        found.value.backward(retain_graph=True)
        return found


class Global(Sound):
    def collect(self, batches: Sequence[Batch]) -> list[JudgedClips]:
        torch.rand(1)
        return super().collect(batches)


class Counting(Sound):
    built = 0

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__(options, context)
        Counting.built += 1
        self.number = Counting.built

    def loss(self, batch: Batch, clips: JudgedClips, draw: str) -> Loss:
        return super().loss(batch, clips, f"{draw}/{self.number}")


class NewClips(Sound):
    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        if update:
            self.rounds = self.collect(batches)
        return super().losses(batches, update)


class Greedy(Sound):
    """Says that a number will do, and asks for the reward's gradient."""

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        if update == 0:
            self.rounds = self.collect(batches)
        for batch, clips in zip(batches, self.rounds, strict=True):
            for draw in range(self.passes):
                noised = drawn_clips(self.context, batch, clips.latents, f"{update}/{draw}")
                frames = self.context.decode(noised.clean - self.predict(noised, batch), [0])
                score = self.context.score(frames, batch.prompts)["kit"]
                yield Loss(-score.mean() / self.passes, clips.scores, clips.reward)


class Boxed:
    """What no checkpoint is trusted with."""


class Pickled(Sound):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "box": Boxed()}


class Forgetful(Sound):
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict({**state, "scale": 1.0})


MUTANTS: dict[str, Any] = {
    "what_it_says_of_a_spec_is_readable": Muttering,
    "counts_are_whole_numbers": Fractional,
    "losses_are_as_many_as_said": Missing,
    "losses_are_scalars": PerClip,
    "the_adapter_gets_gradient": Flat,
    "scores_and_metrics_have_no_graph": Clinging,
    "losses_come_one_at_a_time": AllAtOnce,
    "the_given_denoiser_is_called": PastTheContext,
    "parameters_are_left_alone": OwnBackward,
    "global_random_state_is_left_alone": Global,
    "draws_are_seeded": Counting,
    "clips_serve_every_update": NewClips,
    "rewards_without_a_gradient_suffice": Greedy,
    "state_is_plain": Pickled,
    "state_is_whole": Forgetful,
}
