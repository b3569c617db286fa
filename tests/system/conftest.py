"""A place with a server and a published model, for each test its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Place, blobs_dataset, model_file


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    """A running server, nothing published."""
    with Place(tmp_path) as place:
        place.serve_here()
        yield place


@pytest.fixture
def published(here: Place) -> Place:
    """A running server with a model that trains until it is told to finish."""
    blobs_dataset(here.folder)
    here.publish(model_file(here.folder))
    return here
