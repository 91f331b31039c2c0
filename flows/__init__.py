"""Prefect flows: each an order of tasks. `prefect.yaml` deploys them to a process work pool."""
