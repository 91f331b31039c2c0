"""The process that `common.in_child` starts: `python -m benchmarks.child MODULE:FUNCTION JSON`."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys

import psutil

from magistral_core.processes import die_with_parent


def main() -> None:
    """Call the function; its result is the last line on stdout, whatever else is printed goes to stderr."""
    die_with_parent()
    out = os.dup(1)
    os.dup2(2, 1)
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    before = psutil.Process().memory_info().rss
    result = function(**json.loads(sys.argv[2]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with os.fdopen(out, "w") as lines:
        lines.write(json.dumps({**result, "start_rss_bytes": before, "peak_rss_bytes": peak}) + "\n")
        lines.flush()
    os._exit(0)  # engines take seconds to fall apart


if __name__ == "__main__":
    main()
