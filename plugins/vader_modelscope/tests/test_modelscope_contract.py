"""The backbone keeps the promises of every backbone, with and without an adapter on the text encoder."""

import pytest

from vader.testing import BackboneContract, Subject

SMALL = {"frames": 4, "height": 32, "width": 32}


class TestModelScope(BackboneContract):
    @pytest.fixture
    def backbone(self, folder):
        return Subject("backbone", "modelscope", {"weights": str(folder)}, video=SMALL)


class TestTextAdapter(BackboneContract):
    @pytest.fixture
    def backbone(self, folder):
        options = {"weights": str(folder), "text_adapter": True}
        return Subject("backbone", "modelscope", options, video=SMALL)
