"""The core's contracts hold."""

import pytest

from vader.testing import BackboneContract, SamplerContract, Subject


@pytest.fixture(scope="module")
def subject(folder):
    """Clips of 5 frames of 192 x 192."""
    options = {"weights": str(folder), "resolution": "144p", "aspect_ratio": "1:1", "length": 5}
    return Subject("backbone", "opensora", options, video={})


class TestBackbone(BackboneContract):
    @pytest.fixture
    def backbone(self, subject):
        return subject


class TestSampler(SamplerContract):
    @pytest.fixture
    def sampler(self):
        return "opensora_rflow"
