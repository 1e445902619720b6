"""Rewards in another process: ``isolate: {python: /other/venv/bin/python}`` on a reward of the spec.

Packages of the field pin versions that cannot live together. An isolated reward runs in the interpreter that has what
it needs; frames go over by shared memory, scores come back and, for a differentiable reward, so does the gradient with
respect to the frames. The other environment needs torch and the reward's package, not vader: the child is handed
the few modules of this vader that it uses. It ends when its run ends, however that comes about.

Works where file descriptors can be handed to a child: Linux and macOS. The other Python must be 3.10 or newer.
"""
