"""What a type checker must find: an error in each line that says wrong."""

import vader
from vader import sdk, testing

vader.trian("run.yaml")  # wrong
print(sdk.hub_fiel)  # wrong
print(testing.RewardContrat)  # wrong


class Nothing:
    """No component."""


method: type[vader.Method] = Nothing  # wrong
backbone: type[vader.Backbone] = Nothing  # wrong
sampler: type[vader.Sampler] = Nothing  # wrong
reward: type[vader.Reward] = Nothing  # wrong
prompts: type[vader.PromptSource] = Nothing  # wrong
