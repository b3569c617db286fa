"""Uploads that are cut anywhere, repeated, and sent twice at once end with the right bytes."""

import hashlib
import tempfile
from pathlib import Path

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from handcar.errors import HandcarError
from handcar.server import blobs, uploads
from handcar.server.home import Home
from handcar.server.uploads import Upload


class Cut(Exception):
    """The server's process dies here."""


class Uploads(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        from django.conf import settings as django_settings

        self.folder = tempfile.TemporaryDirectory()
        self.kept = django_settings.HANDCAR_HOME
        django_settings.HANDCAR_HOME = home = Home(Path(self.folder.name))
        home.make_folders()
        self.data = bytes(range(200))
        digest = "sha256:" + hashlib.sha256(self.data).hexdigest()
        self.upload = Upload(key="one", size=len(self.data), digest=digest)
        self.open = []

    def teardown(self):
        from django.conf import settings as django_settings

        django_settings.HANDCAR_HOME = self.kept
        self.folder.cleanup()

    def _pieces(self, start, count, size):
        for at in range(start, min(start + count, len(self.data)), size):
            yield self.data[at : min(at + size, start + count)]

    @rule(count=strategies.integers(0, 250), size=strategies.integers(1, 100))
    def go_on(self, count, size):
        start = uploads.offset(self.upload)
        end = uploads.receive(self.upload, start, self._pieces(start, count, size))
        assert end == uploads.offset(self.upload)

    @rule(count=strategies.integers(0, 250), size=strategies.integers(1, 100))
    def die_on_the_way(self, count, size):
        def pieces():
            yield from self._pieces(start, count, size)
            raise Cut

        start = uploads.offset(self.upload)
        try:
            uploads.receive(self.upload, start, pieces())
        except Cut:
            assert uploads.offset(self.upload) <= len(self.data)

    @rule(start=strategies.integers(0, 250), count=strategies.integers(1, 50))
    def begin_anywhere(self, start, count):
        here = uploads.offset(self.upload)
        try:
            uploads.receive(self.upload, start, self._pieces(start, count, 10))
        except HandcarError as error:
            assert here != start
            assert error.headers == {"Upload-Offset": str(here)}

    @rule(count=strategies.integers(1, 100), at=strategies.integers(0, 10))
    def two_at_once(self, count, at):
        """A second request begins while the first is still reading."""
        start = uploads.offset(self.upload)

        def first():
            for number, piece in enumerate(self._pieces(start, count, 10)):
                if number == at:
                    here = uploads.offset(self.upload)
                    uploads.receive(self.upload, here, self._pieces(here, 25, 5))
                yield piece

        try:
            uploads.receive(self.upload, start, first())
        except HandcarError as error:
            assert error.status == 409

    @rule(wrong=strategies.binary(min_size=1, max_size=300))
    def more_than_announced(self, wrong):
        start = uploads.offset(self.upload)
        excess = self.data[start:] + wrong
        if start < len(self.data):
            try:
                uploads.receive(self.upload, start, [excess])
            except HandcarError as error:
                assert error.status == 413

    @invariant()
    def what_is_here_is_what_was_sent(self):
        offset = uploads.offset(self.upload)
        if blobs.present(self.upload.digest):
            assert blobs.read(self.upload.digest) == self.data
        elif offset:
            assert self.upload.part.read_bytes() == self.data[:offset]


TestUploads = Uploads.TestCase
TestUploads.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
