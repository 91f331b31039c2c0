"""`python -m infra.s3 serve --dir DIR [--port P]`: the S3 server in the foreground.

The account comes from MAGISTRAL_S3_ACCESS_KEY (`ACCOUNT:user`) and MAGISTRAL_S3_SECRET_KEY, or from a JSON file with
`access_key` and `secret_key` that only its owner can read.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from pathlib import Path

from infra.s3.supervisor import serve
from magistral_core.errors import InputError, MagistralError


def main() -> int:
    """Parse, serve, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m infra.s3", description="A persistent S3 server for one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve", help="serve in the foreground until SIGTERM")
    command.add_argument("--dir", type=Path, required=True, help="folder of the data")
    command.add_argument("--port", type=int, help="port on loopback; a free one without this")
    command.add_argument("--secrets", type=Path, help="JSON file with access_key and secret_key, mode 0600")
    command.add_argument("--parent", type=int, help="end when this process, the parent, does")
    options = parser.parse_args()
    try:
        serve(options.dir, *_credentials(options.secrets), options.port, options.parent)
    except MagistralError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _credentials(path: Path | None) -> tuple[str, str]:
    if path is None:
        try:
            return os.environ["MAGISTRAL_S3_ACCESS_KEY"], os.environ["MAGISTRAL_S3_SECRET_KEY"]
        except KeyError as error:
            raise InputError(f"S3 server: no account; set {error.args[0]} or give --secrets FILE") from error
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError(f"{path}: others can read the secret; chmod 600 it")
        keys = json.loads(path.read_text())
        return str(keys["access_key"]), str(keys["secret_key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a JSON file with access_key and secret_key ({error})") from error


sys.exit(main())
