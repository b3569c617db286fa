"""The objects of a bucket, one request each: what a server does with a bucket of its own.

Whatever the store can't do just now is StoreAway: nothing is wrong with the bytes then, and
the same request is worth trying again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2

from handcar.errors import StoreAway, StoreFault
from handcar.files import MB
from handcar.stores import s3
from handcar.stores.s3 import Login
from handcar.stores.signing import GET, Signer, Wanted

PREFIX = "sha256:"
PIECE_BYTES = 1 * MB
MISSING = frozenset({"NoSuchKey", "NotFound", "404", "NoSuchUpload"})
CHANGED = frozenset({"PreconditionFailed", "412"})
CHECKSUM = "x-amz-checksum-sha256"
IMMUTABLE = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Object:
    """One object: its name, and how large and how old it is."""

    key: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Head:
    """What the store says of an object; `digest` only where it has checked one itself."""

    size: int
    etag: str
    digest: str | None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload in parts that nobody has completed."""

    key: str
    id: str
    began: datetime


@dataclass(frozen=True, slots=True)
class Part:
    """One part that is there; the first has the number 1."""

    number: int
    size: int
    etag: str


class Bucket:
    """A bucket, with credentials to read, write, list and sign. Used from several threads."""

    def __init__(
        self, name: str, endpoint: str | None, region: str | None, login: Login | None
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self._login = login
        self._client = s3.connect(endpoint, login, region)

    def describe(self) -> str:
        """Say where it is."""
        return f"the bucket {self.name} at {self._client.meta.endpoint_url}"

    # -- objects

    def put(self, key: str, data: bytes, *, public: bool = False) -> None:
        """Keep bytes under a name; the store refuses them if they are damaged on the way."""
        with self._plainly("put"):
            self._client.put_object(Bucket=self.name, Key=key, Body=data, **_said(public))

    def put_file(self, key: str, path: Path, *, public: bool = False) -> None:
        """Keep a file under a name, in parts when it is large."""
        with self._plainly("put"):
            self._client.upload_file(
                str(path), self.name, key, ExtraArgs=_said(public), Config=s3.transfer()
            )

    def get(self, key: str) -> bytes | None:
        """Return an object's bytes; none when there is no such object."""
        with self._plainly("get"), _missing_is_none():
            answer = self._client.get_object(Bucket=self.name, Key=key)
            with closing(answer["Body"]) as body:
                return bytes(body.read())
        return None

    def head(self, key: str) -> Head | None:
        """Return what the store says of an object; none when there is no such object."""
        with self._plainly("look at"), _missing_is_none():
            found = self._client.head_object(Bucket=self.name, Key=key, ChecksumMode="ENABLED")
            return Head(found["ContentLength"], found["ETag"], _digest(found.get("ChecksumSHA256")))
        return None

    def digest(self, key: str, etag: str) -> str | None:
        """Read an object through, and return its digest; none when it has changed meanwhile."""
        hashed = hashlib.sha256()
        with self._plainly("get"), _missing_is_none():
            answer = self._client.get_object(Bucket=self.name, Key=key, IfMatch=etag)
            with closing(answer["Body"]) as body:
                for piece in body.iter_chunks(PIECE_BYTES):
                    hashed.update(piece)
            return PREFIX + hashed.hexdigest()
        return None

    def copy(self, key: str, to: str, *, etag: str | None = None, public: bool = False) -> bool:
        """Copy an object within the store; no when it is gone, or is not what `etag` says."""
        condition = {} if etag is None else {"CopySourceIfMatch": etag}
        with self._plainly("copy"), _missing_is_none():
            self._client.copy_object(
                Bucket=self.name,
                Key=to,
                CopySource={"Bucket": self.name, "Key": key},
                MetadataDirective="REPLACE",
                **_said(public),
                **condition,
            )
            return True
        return False

    def remove(self, key: str) -> None:
        """Remove an object; harmless when it is gone."""
        with self._plainly("delete"), _missing_is_none():
            self._client.delete_object(Bucket=self.name, Key=key)

    def objects(self, prefix: str) -> Iterator[Object]:
        """Yield every object whose name begins so."""
        with self._plainly("list"):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.name, Prefix=prefix):
                for item in page.get("Contents", ()):
                    yield Object(item["Key"], item["Size"], item["LastModified"])

    # -- uploads in parts

    def begin(self, key: str) -> str:
        """Begin an upload in parts; return its id."""
        with self._plainly("put"):
            answer = self._client.create_multipart_upload(Bucket=self.name, Key=key, **_said(False))
            return str(answer["UploadId"])

    def unfinished(self, prefix: str) -> list[Unfinished]:
        """Return the uploads in parts under names that begin so, by id."""
        with self._plainly("list"):
            pages = self._client.get_paginator("list_multipart_uploads")
            found = [
                Unfinished(item["Key"], item["UploadId"], item["Initiated"])
                for page in pages.paginate(Bucket=self.name, Prefix=prefix)
                for item in page.get("Uploads", ())
            ]
        return sorted(found, key=lambda one: one.id)

    def parts(self, key: str, id: str) -> list[Part]:
        """Return the parts that are there, in their order."""
        with self._plainly("list"), _missing_is_none():
            pages = self._client.get_paginator("list_parts")
            return [
                Part(item["PartNumber"], item["Size"], item["ETag"])
                for page in pages.paginate(Bucket=self.name, Key=key, UploadId=id)
                for item in page.get("Parts", ())
            ]
        return []

    def complete(self, key: str, id: str, parts: list[Part]) -> None:
        """Make an object of its parts; harmless when that was done before."""
        told = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        with self._plainly("put"), _missing_is_none():
            self._client.complete_multipart_upload(
                Bucket=self.name, Key=key, UploadId=id, MultipartUpload={"Parts": told}
            )

    def abort(self, key: str, id: str) -> None:
        """Give an upload in parts up; harmless when it is gone."""
        with self._plainly("delete"), _missing_is_none():
            self._client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=id)

    # -- links

    def sign(self, key: str, now: datetime, *, expires_s: int, wanted: Wanted = GET) -> str:
        """Return a link, signed without asking anyone."""
        return self._signer().sign(self.name, key, now, expires_s=expires_s, wanted=wanted)

    def address(self, key: str) -> str:
        """Return where an object would be, if anyone could read it."""
        return self.sign(key, datetime.now(UTC), expires_s=1).partition("?")[0]

    def _signer(self) -> Signer:
        region = self._client.meta.region_name
        if self._login is not None:
            return Signer(self._login.key, self._login.secret, region, self.endpoint)
        # Lent credentials change from hour to hour: they are asked for each time.
        lent = self._found.get_frozen_credentials()
        return Signer(lent.access_key, lent.secret_key, region, self.endpoint, lent.token)

    @cached_property
    def _found(self) -> Any:
        """The credentials that Amazon's own tools find on this machine."""
        import boto3

        found = boto3.session.Session().get_credentials()
        if found is None:
            raise StoreFault(
                f"{self.describe()}: no credentials: set HANDCAR_STORE_KEY and HANDCAR_STORE_SECRET"
            )
        return found

    @cached_property
    def checks_digests(self) -> bool:
        """Whether it refuses bytes whose SHA-256 is not the one that is told with them."""
        from botocore.exceptions import ClientError

        key, wrong = "incoming/.probe", checksum_of(PREFIX + "0" * 64)
        with self._plainly("put"):
            try:
                self._client.put_object(
                    Bucket=self.name, Key=key, Body=b"probe", ChecksumSHA256=wrong
                )
            except ClientError as error:
                answer = error.response.get("ResponseMetadata", {})
                if answer.get("HTTPStatusCode") == 400:
                    return True
                raise
        self.remove(key)
        return False

    @contextmanager
    def _plainly(self, doing: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise StoreAway(str(s3.fault(error, self.describe(), doing))) from error


@contextmanager
def _missing_is_none() -> Iterator[None]:
    """End the block where the object is not there, or is another one by now."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if s3.code_of(error) not in MISSING | CHANGED:
            raise


def is_read_by_anyone(address: str) -> bool:
    """Say whether an object can be had without credentials."""
    try:
        return httpx2.get(address, timeout=10.0).status_code == 200
    except httpx2.HTTPError:
        return False


def checksum_of(digest: str) -> str:
    """Return a digest as S3 writes it."""
    return base64.b64encode(bytes.fromhex(digest.removeprefix(PREFIX))).decode()


def _digest(checksum: str | None) -> str | None:
    # One of several parts together has a number of parts behind it, and is no digest of ours.
    if not checksum or "-" in checksum:
        return None
    return PREFIX + base64.b64decode(checksum).hex()


def _said(public: bool) -> dict[str, Any]:
    told = {"ContentType": "application/octet-stream"}
    return told | {"CacheControl": IMMUTABLE} if public else told
