"""A filter before Swift's S3 API: an upload that does not fit is refused at once, by that name.

Swift itself answers 503, "reduce your request rate", which clients retry for a minute and then misreport.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from typing import Any

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_BODY = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>InsufficientStorage</Code><Message>The disk of this server is full.</Message></Error>"""


def filter_factory(global_conf: dict[str, str], folder: str, keep_free: str, **swift_settings: str) -> Callable[[Application], Application]:
    """A paste.deploy filter; `keep_free` bytes of the disk that holds `folder` stay free."""

    def wrap(application: Application) -> Application:
        def guarded(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            size = int(environment.get("CONTENT_LENGTH") or 0)
            if environment["REQUEST_METHOD"] == "PUT" and shutil.disk_usage(folder).free < size + int(keep_free):
                headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(_BODY))), ("Connection", "close")]
                start_response("507 Insufficient Storage", headers)
                return [_BODY]
            return application(environment, start_response)

        return guarded

    return wrap
