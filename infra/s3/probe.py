"""Does an S3 server of ours answer?"""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit


def healthy(endpoint: str, timeout_s: float = 2.0) -> bool:
    """Whether the endpoint answers its health check within the timeout."""
    address = urlsplit(endpoint)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
