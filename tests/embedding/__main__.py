"""Play the story: ``python -m tests.embedding DRIVER [ENDPOINT]``.

Prints what came of it as JSON, with the loops that were loaded for it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

import attrs

from sandbox_proto.config import ClientConfig
from sandbox_proto.plans.retry import RetryPolicy

from .story import Story

LOOPS = ("anyio", "sandbox_anyio", "asyncio", "trio", "twisted", "curio", "gevent")


def main() -> None:
    driver = importlib.import_module(f".{sys.argv[1]}", __package__).Driver()
    quickly = RetryPolicy(initial=0.01, jitter=0)
    story = Story(
        driver,
        ClientConfig.from_env(
            os.environ, api_endpoint=sys.argv[2] if sys.argv[2:] else None, retry=quickly
        ),
    )
    driver.run(story.begin)
    loaded = [name for name in LOOPS if name in sys.modules]
    print(json.dumps({"told": attrs.asdict(story.told), "loaded": loaded}))


main()
