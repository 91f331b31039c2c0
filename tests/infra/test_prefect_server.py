"""The mends of Prefect's server, in a process of their own: they change Prefect wherever they are imported."""

from __future__ import annotations

import json
import subprocess
import sys

LISTENING = """
import asyncio, json, threading
from burner_redis import BurnerRedis
import infra.stack.prefect_server

async def main():
    redis = BurnerRedis()
    listener = redis.pubsub()
    await listener.subscribe("news")
    heard = [await listener.get_message(timeout=1), await listener.get_message(), await listener.get_message(timeout=0.1)]
    waiting = asyncio.create_task(listener.get_message(timeout=None))
    await asyncio.sleep(0.6)
    early = waiting.done()
    await redis.publish("news", "it works")
    said = (await asyncio.wait_for(waiting, 10))["data"].decode()
    given_up = asyncio.create_task(listener.get_message(timeout=None))
    await asyncio.sleep(0)
    given_up.cancel()
    ended, _ = await asyncio.wait([given_up], timeout=10)
    await listener.aclose()
    seen = {"first": heard[0]["type"], "later": heard[1:], "early": early, "said": said}
    print(json.dumps({**seen, "ended": len(ended), "threads": threading.active_count()}))

asyncio.run(main())
"""


def test_a_listener_hears_what_is_sent_without_a_thread_that_waits_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "first": "subscribe",
        "later": [None, None],
        "early": False,
        "said": "it works",
        "ended": 1,
        "threads": 1,
    }
