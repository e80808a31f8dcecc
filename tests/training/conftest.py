"""What the tests of training share."""

from __future__ import annotations

import pytest
from saving_helpers import record_warnings

from backbones.training import inject


@pytest.fixture(autouse=True)
def no_faults():
    """Faults of one test end with it."""
    yield
    inject.configure('')


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs warn of."""
    return record_warnings(monkeypatch)
