"""``python -m benchmarks``: ours against the vendor's client, and against the limit.

Everything meets the same stand-in server, in one run, in turns. The vendor's client comes
with the ``test`` extra; uvloop is measured too where it is installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .cases import CASES
from .chart import bars
from .report import listing, summary, table
from .running import Result, chosen, run_case
from .servers import standing

_EXAMPLES = """\
examples:
  python -m benchmarks                     every case; takes about ten minutes
  python -m benchmarks requests run/warm-ws  one group, and one case
  python -m benchmarks --size small        does everything work? Seconds, and no figures
  python -m benchmarks --json run.json --chart run.svg
  python -m benchmarks growth              how cost grows with number and size

Ratios of one run count, not times: the machine is never as quiet as it seems. CPU time
suffers less from what else runs. A target that is not reached is told at the end, and makes
the exit code 1 where figures were asked for.
"""


def main() -> int:
    """See the module's text."""
    if sys.argv[1:2] == ["growth"]:
        from .growth import main as grow

        return grow(sys.argv[2:])
    options = _parse()
    if options.list:
        print("\n".join(listing(CASES)))
        return 0
    try:
        cases = list(chosen(CASES, options.case))
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    small = options.size == "small"
    results: list[Result] = []
    with standing() as setting:
        for case in cases:
            result = run_case(case, setting, small=small, tell=_tell)
            results.append(result)
            _tell("")
            print("\n".join(table(result)), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(_document(results, options.size), indent=1))
    if options.chart is not None:
        options.chart.write_text(bars(results))
    if small:
        print("\nIt works. For figures, ask for --size full.")
        return 0
    print("\n".join(summary(results)))
    return int(any(not verdict.reached for result in results for verdict in result.verdicts()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("case", nargs="*", help="cases or groups of cases (default: all)")
    parser.add_argument("--list", action="store_true", help="show the cases and end")
    parser.add_argument(
        "--size", choices=("small", "full"), default="full", help="small only tries everything"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample, as JSON")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="the ratios, as SVG")
    return parser.parse_args()


def _document(results: list[Result], size: str) -> dict[str, Any]:
    libraries = ("langsmith", "h11", "wsproto", "anyio", "attrs", "cattrs", "trio")
    return {
        "size": size,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in libraries},
        "cases": [result.as_json() for result in results],
    }


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
