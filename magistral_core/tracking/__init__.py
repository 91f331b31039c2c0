"""MLflow: runs, batched metrics, tables of samples, checkpoints as logged models. Importing this does not import mlflow."""

from magistral_core.tracking.tracker import KEY_TAG, RUN_TAG, Tracker, flatten

__all__ = ["KEY_TAG", "RUN_TAG", "Tracker", "flatten"]
