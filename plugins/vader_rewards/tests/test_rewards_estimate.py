"""What ``vader estimate`` counts of rewards that share a tower."""

from pathlib import Path

from vader import RunSpec
from vader.estimation import estimate

FAKES = Path(__file__).resolve().parents[3] / "tests" / "fakes.py"


def test_a_tower_of_two_rewards_is_counted_once():
    def weights(*preprocess):
        rewards = [{"name": "aesthetic", "label": how, "options": {"preprocess": how}} for how in preprocess]
        spec = {
            "backbone": {"name": f"{FAKES}:FakeBackbone"},
            "sampler": {"steps": 1},
            "prompts": {"name": "list", "options": {"prompts": ["a fox"]}},
            "rewards": rewards[:1],
            "validation": {"clips": 1, "rewards": rewards[1:]},
        }
        found = estimate(RunSpec.model_validate(spec))
        assert found.not_counted == {}
        return sum(size for row, size in found.training.most.items() if row.startswith("weights: reward"))

    one, two = weights("official"), weights("official", "reference")
    assert one > 10**9  # the tower
    assert 0 < two - one < 10**7  # a second head
