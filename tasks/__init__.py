"""Prefect tasks: each wraps one command of the core and adds retries, logs and artifacts. Nothing of the method lives here."""
