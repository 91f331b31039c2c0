"""`magistral verify`: judge answers as a run would, without a run."""

from __future__ import annotations

from typing import Any

from magistral_core.cli import verify_code, verify_math


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("verify", help="judge answers with the verifiers of a run", description=__doc__)
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", required=True)
    verify_math.add(kinds)
    verify_code.add(kinds)
