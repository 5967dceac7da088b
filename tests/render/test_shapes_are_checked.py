"""The import hook of conftest.py checks shapes while the tests of the typed rooms run."""

import pytest
import torch

from magic123.render.losses import entropy, opacity


def test_a_wrong_shape_is_refused():
    assert float(opacity(torch.ones(2, 3))) == 1
    with pytest.raises(TypeError):
        entropy(torch.ones(2, 3))
