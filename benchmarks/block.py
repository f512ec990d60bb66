"""One block of one contender in a process of its own; its sample is printed as JSON."""

from __future__ import annotations

import json
import sys

from .cases import CASES
from .measuring import Setting, to_json
from .running import run_block


def main() -> None:
    """See the module's text."""
    case_name, contender_name, setting = json.loads(sys.argv[1])
    case = next(case for case in CASES if case.name == case_name)
    contender = next(one for one in case.contenders if one.name == contender_name)
    print(json.dumps(to_json(run_block(contender, Setting(**setting)))))


if __name__ == "__main__":
    main()
