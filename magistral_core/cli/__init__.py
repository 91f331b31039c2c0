"""The `magistral` command: one file per group of commands, engines imported only by the command that needs them."""

from magistral_core.cli.app import main

__all__ = ["main"]
