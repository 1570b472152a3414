from __future__ import annotations

import pytest

from tests.support.faces import tiny_faces
from trainer.data.dataset import FaceData


@pytest.fixture(scope="session")
def faces() -> FaceData:
    """A few built-in faces."""
    return tiny_faces()
