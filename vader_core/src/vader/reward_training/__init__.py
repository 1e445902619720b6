"""``vader reward train``: a reward in latent space, trained on labelled clips or distilled from another reward."""

from vader.reward_training.training import train_reward as train_reward
