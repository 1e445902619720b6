"""Engine `groundingdino` from an ordinary run: by `isolate`, in the environment that GROUNDINGDINO_PYTHON names.

Run by the nox session `engines` in an environment with transformers 5, where the package itself cannot work.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from vader import Prompt, RegistryError, Runtime
from vader.plugins.isolation.component import Isolated
from vader_rewards.detection import Detection

pytestmark = pytest.mark.filterwarnings("default")  # what another package warns of is not ours to judge
CPU = Runtime(torch.device("cpu"), torch.float32)
PYTHON = os.environ["GROUNDINGDINO_PYTHON"]
ISOLATE = {"python": PYTHON, "timeout": 600.0, "startup_timeout": 600.0}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """One network in both layouts, written by the other environment."""
    root = tmp_path_factory.mktemp("dino")
    subprocess.run([PYTHON, "-W", "ignore", str(Path(__file__).with_name("tiny_dino.py")), str(root)], check=True)
    return root


def options(both, **more):
    files = {"weights": str(both / "original.pth"), "text_encoder": str(both / "bert")}
    return {"engine": "groundingdino", "size": 96, **files, **more}


def test_the_other_environment_is_another():
    """It has no vader-core, and the transformers that the package works with."""
    code = "import importlib.util as u, transformers; print(transformers.__version__, u.find_spec('vader'))"
    said = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True, env={"PATH": os.defpath})
    assert said.stdout.split() == ["4.57.6", "None"]


def test_scores_and_gradients_are_those_of_transformers_5(both):
    """The package in its process, and our engine in this one, on the same weights."""
    component = Isolated(ISOLATE, "detection", "book", options(both)).component()
    isolated = component(CPU)
    own = Detection(Detection.Options(engine="grounding_dino", size=96, weights=str(both / "folder")), CPU)
    prompts = [Prompt("x", {"object": "a Book"}), Prompt("y", {"object": "traffic light."})]
    results = []
    for reward in (isolated, own):
        frames = torch.rand(2, 1, 3, 40, 64, generator=torch.Generator().manual_seed(5)).requires_grad_()
        scores = reward.score(frames, prompts)
        results.append((scores.detach(), *torch.autograd.grad(scores.sum(), frames)))
    isolated.close()
    (scores, gradient), (expected, reference) = results
    assert component.differentiable
    assert expected.std() > 1e-3
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=0)
    assert (gradient - reference).abs().max() < 1e-4 * reference.abs().max()


def test_a_run(both, tmp_path):
    """`vader train` on it: score and gradient arrive at every step."""
    spec = {
        "backbone": "shapes",
        "prompts": "shapes",
        "rewards": [{"name": "detection", "isolate": ISOLATE, "options": options(both, object="book", goal="favour")}],
        "frames": {"mode": "index", "index": 0},
        "train": {"steps": 2, "batch_size": 1, "device": "cpu", "learning_rate": 0.001},
        "validation": {"clips": 0},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "vader", "train", str(tmp_path / "spec.yaml"), "--trust-code"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "score/detection" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(0 < row["score/detection"] < 1 and row["grad_norm"] > 0 for row in steps)


def test_here_it_is_refused(both):
    with pytest.raises(RegistryError, match=r"needs groundingdino-py.*docs/how-to/environments\.md"):
        Detection(Detection.Options(**options(both)), CPU)


def test_options_are_judged_there(both):
    wrong = Isolated(ISOLATE, "detection", "book", options(both, revision="main")).problems
    assert "revision 'main' is for weights that are a folder" in str(wrong)
