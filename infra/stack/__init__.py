"""The local stack: Prefect server, worker and deployments, MLflow and S3, on loopback.

`up`, `down` and `status` manage it; `environment` gives the variables that point every client at it. A service whose
usual environment variable is set (PREFECT_API_URL, MLFLOW_TRACKING_URI, AWS_ENDPOINT_URL or MAGISTRAL_STORAGE_URI) is not
started: that one is used instead.
"""

from infra.stack.control import down, status, up
from infra.stack.services import environment

__all__ = ["down", "environment", "status", "up"]
