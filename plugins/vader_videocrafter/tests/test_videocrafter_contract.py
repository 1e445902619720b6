"""The core's contracts hold."""

import pytest

from vader.testing import BackboneContract, SamplerContract, Subject


@pytest.fixture(scope="module")
def subject(tiny_file):
    """Clips of 4 frames of 16 x 16."""
    video = {"frames": 4, "height": 16, "width": 16}
    return Subject("backbone", "videocrafter2", {"weights": str(tiny_file())}, video=video)


class TestBackbone(BackboneContract):
    @pytest.fixture
    def backbone(self, subject):
        return subject


class TestSampler(SamplerContract):
    @pytest.fixture
    def sampler(self):
        return "videocrafter_ddim"
