"""A bucket as a store: Amazon S3, and MinIO, R2, B2, SeaweedFS, IDrive e2, who speak its protocol.

boto3 finds credentials and region where Amazon's own tools do: the AWS_* variables, or the
files in ~/.aws. Objects are named by their digest, so what is there is known by name and size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from handcar.errors import BadInput, Problem, StoreFault, Unreachable
from handcar.files import MB
from handcar.stores.base import file_name
from handcar.stores.signing import LONGEST_S

Links = Literal["public", "signed", "server"]

MULTIPART_BYTES = 32 * MB
PART_BYTES = 16 * MB
NOT_NOW = frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503"})


@dataclass(frozen=True, slots=True)
class Login:
    """Credentials that are not those of Amazon's own tools on this machine."""

    key: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which bucket; `endpoint` none means what AWS_ENDPOINT_URL says, or Amazon.

    `address` is where everyone may read it, if that is not the endpoint itself.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    address: str | None = None

    def key(self, digest: str) -> str:
        """Return the name of a digest's object."""
        return f"{self.prefix}/{file_name(digest)}" if self.prefix else file_name(digest)


class S3Store:
    """Objects in a bucket. `links` says how volunteers get at them:

    `public` because everyone may read the bucket; `signed` by a link that this machine signs
    and that is good for seven days; `server` by links that the Handcar server signs when a
    volunteer asks, for which it needs credentials of its own.
    """

    parallel = 8

    def __init__(self, place: Place, links: Links = "public") -> None:
        self._place = place
        self._links = links
        self._client = connect(place.endpoint)
        self._there: dict[str, int] = {}
        self._lock = threading.Lock()

    def describe(self) -> str:
        """Say where it is."""
        return f"the bucket {self._place.bucket} at {self._client.meta.endpoint_url}"

    def check(self) -> None:
        """Ask what is there. Raises StoreFault when credentials, bucket or rights are missing."""
        prefix = f"{self._place.prefix}/" if self._place.prefix else ""
        with self._plainly("list"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._place.bucket, Prefix=prefix
            )
            found = {
                item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())
            }
        self._there = found

    def put(self, digest: str, path: Path) -> bool:
        """Send a file unless an object of its name and size is there."""
        key, size = self._place.key(digest), path.stat().st_size
        with self._lock:
            if self._there.get(key) == size:
                return False
        with self._plainly("put"):
            self._client.upload_file(
                str(path),
                self._place.bucket,
                key,
                ExtraArgs={
                    "ContentType": "application/octet-stream",
                    "CacheControl": "public, max-age=31536000, immutable",
                },
                Config=transfer(),
            )
        with self._lock:
            self._there[key] = size
        return True

    def link(self, digest: str) -> str:
        """Return the address for volunteers; `s3://...` where the server signs."""
        key = self._place.key(digest)
        if self._links == "server":
            return f"s3://{self._place.bucket}/{key}"
        if self._links == "signed":
            return str(
                self._client.generate_presigned_url(
                    "get_object",
                    Params={"Bucket": self._place.bucket, "Key": key},
                    ExpiresIn=LONGEST_S,
                )
            )
        return f"{self._address()}/{key}"

    def remove(self, digest: str) -> None:
        """Remove an object; harmless when it is not there."""
        key = self._place.key(digest)
        with self._plainly("delete"):
            self._client.delete_object(Bucket=self._place.bucket, Key=key)
        with self._lock:
            self._there.pop(key, None)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _address(self) -> str:
        if self._place.address is not None:
            return self._place.address.rstrip("/")
        endpoint = str(self._client.meta.endpoint_url).rstrip("/")
        if endpoint.endswith(".amazonaws.com"):
            region = self._client.meta.region_name
            return f"https://{self._place.bucket}.s3.{region}.amazonaws.com"
        return f"{endpoint}/{self._place.bucket}"

    @contextmanager
    def _plainly(self, doing: str) -> Iterator[None]:
        """Turn boto's errors into ours."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise fault(error, self.describe(), doing) from error


def connect(endpoint: str | None, login: Login | None = None, region: str | None = None) -> Any:
    """Return boto3's client. Raises BadInput without boto3, StoreFault."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise BadInput("for s3:// stores boto3 is needed: pip install 'handcar[publish]'") from None
    settings = Config(
        # Since 1.36 boto3 adds checksums of its own, which others than Amazon refuse
        # (boto/boto3#4392, #4400); instead the digest of what is sent is part of the signature.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        signature_version="s3v4",
        s3={"payload_signing_enabled": True, **({"addressing_style": "path"} if endpoint else {})},
        retries={"mode": "standard", "max_attempts": 4},
        max_pool_connections=4 * S3Store.parallel,
        connect_timeout=10,
    )
    try:
        # A session of its own: boto3's default one is not made for threads.
        session = boto3.session.Session()
        region = region or session.region_name or "us-east-1"
        return session.client(
            "s3",
            endpoint_url=endpoint,
            config=settings,
            region_name=region,
            aws_access_key_id=login.key if login else None,
            aws_secret_access_key=login.secret if login else None,
        )
    except (BotoCoreError, ValueError) as error:
        raise StoreFault(f"the bucket can't be reached: {error}") from error


def transfer() -> Any:
    """Return how boto3 cuts large files into parts."""
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=PART_BYTES)


EXPLAINED: dict[str, str] = {
    "NoSuchBucket": "there is no such bucket: make it first, or mend its name",
    "404": "there is no such bucket: make it first, or mend its name",
    "InvalidAccessKeyId": "the access key is not known there: see AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: see AWS_SECRET_ACCESS_KEY and AWS_REGION",
    "AccessDenied": "these credentials may not do that: they need s3:ListBucket, s3:PutObject "
    "and s3:DeleteObject",
    "403": "these credentials may not do that: they need s3:ListBucket, s3:PutObject "
    "and s3:DeleteObject",
    "ExpiredToken": "the credentials have expired: log in again",
    "QuotaExceeded": "the bucket is full",
    "XMinioStorageFull": "the store is full",
    "NoCredentialsError": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "PartialCredentialsError": "half of the credentials is missing: set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY",
}


def fault(error: Exception, where: str, doing: str) -> Exception:
    """Return our error for one of boto's."""
    cause = _root(error)
    code = code_of(cause)
    if code in EXPLAINED:
        return StoreFault(f"{where}, {doing}: {EXPLAINED[code]} ({code})")
    if code in NOT_NOW or type(cause).__name__ in (
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ConnectionClosedError",
        "SSLError",
    ):
        return Unreachable(f"{where}, {doing}: {cause}; do it again to go on")
    status = int(_answer(cause).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return Problem(type="about:blank", title=f"{where}, {doing}", status=status, detail=str(cause))


def _root(error: Exception) -> BaseException:
    """Return what happened: uploading wraps the cause in an error of its own."""
    from boto3.exceptions import Boto3Error

    return (
        (error.__cause__ or error.__context__ or error) if isinstance(error, Boto3Error) else error
    )


def code_of(error: BaseException) -> str:
    """Return the store's word for what is wrong."""
    return str(_answer(error).get("Error", {}).get("Code") or type(error).__name__)


def _answer(error: BaseException) -> dict[str, Any]:
    answer = getattr(error, "response", None)
    return answer if isinstance(answer, dict) else {}
