"""Fixtures of the runtime's tests."""

import pytest

from tests.runtime.instruction_sets import INSTRUCTION_SETS, engine


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def library(request):
    """The compiled engine on every instruction set that this processor runs."""
    return engine(request.param)
