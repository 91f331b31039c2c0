"""A persistent S3 server for one machine: OpenStack Swift with its S3 API, on loopback.

`python -m infra.s3 serve --dir DIR` runs it in the foreground; `S3Server` starts and ends one from Python.
"""

from infra.s3.server import S3Server

__all__ = ["S3Server"]
