"""Objects in S3, through boto3: AWS, or any server that speaks its protocol.

Endpoint, region and account come from the usual variables (AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_DEFAULT_REGION). Large files go up in parts; a part list that is never
completed is no object, and is aborted a week later. Checksums of every request are boto3's own.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from magistral_core.errors import InfrastructureError, InputError, MagistralError
from magistral_core.storage.objects import (
    CHUNK_BYTES,
    Listing,
    MissingObjectError,
    Names,
    StoreUnreachableError,
    check_key,
    disk_full,
    is_full,
    replaced_account,
)

#: An endpoint that is there answers a tiny request within this.
_CHECK_TIMEOUT_S = 8
#: During a run: patience with a server that restarts. About a minute of retries with growing pauses.
_RETRIES = 10
_PART_BYTES = 64 << 20
_THREADS = 4
#: An upload that began so long ago has no living writer.
_STALE = timedelta(days=7)
_DELETE_AT_ONCE = 1000
_MISSING = {"404", "NoSuchKey", "NotFound"}
_REFUSED = {
    "401",
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidToken",
}
_NO_BUCKET = "NoSuchBucket"
_SERVER_FAILED = 500
#: Of one object among those that a request deletes: that the server could not just then.
_BUSY = {"InternalError", "SlowDown", "ServiceUnavailable"}
_FULL = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}


class S3Store:
    """An ObjectStore in a bucket, below a prefix."""

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        try:
            self._client = self._make_client(connect_timeout=5, read_timeout=60, retries=_RETRIES)
        except (BotoCoreError, ValueError) as error:
            raise InputError(f"storage.uri {self.uri}: {error}; check the AWS_* variables") from error
        self._transfer = TransferConfig(
            multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=_THREADS, preferred_transfer_client="classic"
        )

    def check(self, *, write: bool = True) -> None:
        quick = self._make_client(connect_timeout=2, read_timeout=_CHECK_TIMEOUT_S, retries=1)
        key = f"{self._prefix}probe-{uuid.uuid4().hex}"
        try:
            if not write:
                quick.list_objects_v2(Bucket=self.bucket, Prefix=self._prefix, MaxKeys=1)
                return
            self._require_bucket(quick)
            quick.put_object(Bucket=self.bucket, Key=key, Body=key.encode())
            same = quick.get_object(Bucket=self.bucket, Key=key)["Body"].read() == key.encode()
            quick.delete_object(Bucket=self.bucket, Key=key)
            self._abort_stale(quick)
        except NoCredentialsError as error:
            raise InputError(f"storage.uri {self.uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and (_code(error) in _FULL or not _is_away(error)):
                raise InputError(f"storage.uri {self.uri}: {self._refusal(error)}") from error
            where = self._endpoint or "AWS"
            mend = (
                "start it (magistral stack up), or set AWS_ENDPOINT_URL_S3"
                if self._endpoint
                else "check the network, or set AWS_ENDPOINT_URL_S3"
            )
            raise InputError(f"storage.uri {self.uri}: the S3 server at {where} cannot be reached ({_brief(error)}); {mend}") from error
        if not same:
            raise InputError(f"storage.uri {self.uri}: what was written there reads differently; choose another server")

    def put_file(self, path: Path, key: str, count: Callable[[int], None] = lambda size: None) -> None:
        with self._explain(key, size=path.stat().st_size):
            self._client.upload_file(str(path), self.bucket, self._full(key), Config=self._transfer, Callback=count)

    def put_bytes(self, data: bytes, key: str) -> None:
        with self._explain(key, size=len(data)):
            self._client.put_object(Bucket=self.bucket, Key=self._full(key), Body=data)

    def get_bytes(self, key: str) -> bytes:
        return b"".join(self.read(key))

    def get_file(self, key: str, path: Path) -> None:
        with self._explain(key, local=path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            # boto3 writes to a temporary name beside the path and renames it.
            self._client.download_file(self.bucket, self._full(key), str(path), Config=self._transfer)

    def read(self, key: str) -> Iterator[bytes]:
        with self._explain(key):
            yield from self._client.get_object(Bucket=self.bucket, Key=self._full(key))["Body"].iter_chunks(CHUNK_BYTES)

    def list(self, prefix: str) -> Listing:
        found: Listing = []
        with self._explain(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._prefix + prefix):
                found += [(item["Key"].removeprefix(self._prefix), int(item["Size"])) for item in page.get("Contents", [])]
        return sorted(found)

    def folders(self, prefix: str) -> Names:
        found = []
        start = self._prefix + prefix
        with self._explain(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start, Delimiter="/"):
                found += [item["Prefix"].removeprefix(start).rstrip("/") for item in page.get("CommonPrefixes", [])]
        return sorted(found)

    def exists(self, key: str) -> bool:
        try:
            with self._explain(key):
                self._client.head_object(Bucket=self.bucket, Key=self._full(key))
        except MissingObjectError:
            return False
        return True

    def delete(self, keys: Iterable[str]) -> None:
        left = [{"Key": self._full(key)} for key in keys]
        for start in range(0, len(left), _DELETE_AT_ONCE):
            with self._explain(left[start]["Key"]):
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": left[start : start + _DELETE_AT_ONCE], "Quiet": True}
                )
            for failed in answer.get("Errors", []):
                kind = StoreUnreachableError if failed.get("Code") in _BUSY else InfrastructureError
                raise kind(f"s3://{self.bucket}/{failed['Key']}: not deleted ({failed.get('Code')})")

    def _full(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _make_client(self, connect_timeout: float, read_timeout: float, retries: int) -> Any:
        # A client is safe to use from several threads; path style because a private endpoint has no host name for each bucket.
        config = Config(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": retries},
            s3={"addressing_style": "path"} if self._endpoint else {},
            max_pool_connections=4 * _THREADS,
        )
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if self._endpoint else None)
        return boto3.session.Session().client("s3", endpoint_url=self._endpoint, region_name=region, config=config)

    def _require_bucket(self, client: Any) -> None:
        try:
            client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            if _code(error) in {"403", "AccessDenied"}:  # rights to a folder of the bucket are enough; what is put there next tells
                return
            if _code(error) not in _MISSING | {"400"}:  # 400: creation says why, a HEAD cannot
                raise
            if elsewhere := replaced_account(self.bucket):
                raise InputError(f"storage.uri {self.uri}: there is no bucket {self.bucket}{elsewhere}") from error
            region = client.meta.region_name
            extra = {} if self._endpoint or region in (None, "us-east-1") else {"CreateBucketConfiguration": {"LocationConstraint": region}}
            try:
                client.create_bucket(Bucket=self.bucket, **extra)
            except ClientError as creation:
                if _code(creation) != "BucketAlreadyOwnedByYou":  # somebody of ours was faster
                    raise

    def _abort_stale(self, client: Any) -> None:
        """Abort uploads that killed writers never completed: no listing of objects shows their parts, and they are paid for."""
        before = datetime.now(UTC) - _STALE
        with contextlib.suppress(ClientError):  # not every server lists them, and not every account may
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=f"{self._prefix}runs/"):
                for upload in page.get("Uploads", []):
                    if upload["Initiated"] < before:
                        client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _refusal(self, error: ClientError) -> str:
        code = _code(error)
        if code in _REFUSED:
            return f"the S3 server refused the credentials ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY and their rights"
        if code in _FULL:
            return f"the S3 server's disk is full ({code}); free some space there"
        if code == _NO_BUCKET:
            return f"there is no bucket {self.bucket}{replaced_account(self.bucket)}"
        return f"the S3 server refused ({_brief(error)})"

    @contextlib.contextmanager
    def _explain(self, key: str, size: int | None = None, local: Path | None = None) -> Iterator[None]:
        where = f"{self.uri}/{key}"
        try:
            yield
        except MagistralError:
            raise
        except S3UploadFailedError as error:
            # boto3 wraps what an upload met; the reason is what counts.
            cause = error.__context__
            code = _code(cause) if isinstance(cause, ClientError) else ""
            if code in _FULL:
                raise disk_full(self.uri, size, key) from error
            away = _is_away(cause) if isinstance(cause, ClientError) else isinstance(cause, BotoCoreError)
            kind = StoreUnreachableError if away else InfrastructureError
            raise kind(f"{where}: not stored ({_brief(cause or error)})") from error
        except ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise MissingObjectError(f"{where}: no such object") from error
            if code in _FULL:
                raise disk_full(self.uri, size, key) from error
            if code == _NO_BUCKET:
                raise InputError(f"{where}: {self._refusal(error)}") from error
            kind = StoreUnreachableError if _is_away(error) else InfrastructureError
            raise kind(f"{where}: {self._refusal(error)}") from error
        except (BotoCoreError, Boto3Error, OSError) as error:
            if local is not None and is_full(error):
                raise disk_full(local, None, key) from error
            raise StoreUnreachableError(f"{where}: S3 failed ({_brief(error)})") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_away(error: ClientError) -> bool:
    """Whether the server, not the request, is at fault."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= _SERVER_FAILED


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
