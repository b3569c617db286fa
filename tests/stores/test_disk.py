"""A folder as a store."""

from handcar import files
from handcar.stores.disk import DiskStore

DIGEST = files.digest(b"records")


def test_a_file_is_copied_where_its_link_says(tmp_path):
    (tmp_path / "chunk").write_bytes(b"records")
    store = DiskStore(tmp_path / "public", "https://example.org/chunks/")
    assert store.put(DIGEST, tmp_path / "chunk")
    link = store.link(DIGEST)
    assert link.startswith("https://example.org/chunks/")
    copied = tmp_path / "public" / link.removeprefix("https://example.org/chunks/")
    assert copied.read_bytes() == b"records"


def test_a_file_that_is_there_is_not_copied_again(tmp_path):
    (tmp_path / "chunk").write_bytes(b"records")
    store = DiskStore(tmp_path / "public", "https://example.org")
    store.put(DIGEST, tmp_path / "chunk")
    assert not store.put(DIGEST, tmp_path / "missing")
