"""A reward of nothing that takes its time, so that verifying lasts long enough to be struck."""

import time


def slowly(*, problem, response, thoughts, answer, length) -> float:
    time.sleep(0.01)
    return 0.0
