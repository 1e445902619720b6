"""Families with images and with experts keep the contract of backbones."""

import pytest

from vader.testing import check_backbone

SMALL = {"cogvideox_i2v": {"frames": 9, "height": 32, "width": 32}}


@pytest.mark.parametrize("name", ["wan22_i2v", "wan_i2v", "wan22_ti2v", "cogvideox_i2v"])
def test_contract(name):
    statuses = {outcome.name: outcome.status for outcome in check_backbone(name, video=SMALL.get(name))}
    assert statuses["gradient_reaches_the_adapter_alone"] == "passed"
