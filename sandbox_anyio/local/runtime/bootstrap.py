"""Where the zygote's interpreter starts: ``python -I -S -B bootstrap.py DESCRIPTOR``.

The zygote's modules are imported as a package whose ``__init__`` never runs, since the
packages above it need libraries which that bare interpreter cannot see and should not have.
"""

import importlib
import os
import sys
from types import ModuleType


def main() -> None:
    """Run the zygote on the control socket named by the only argument."""
    package = ModuleType("runtime")
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100, PTH120
    sys.modules["runtime"] = package
    importlib.import_module("runtime.zygote").main(int(sys.argv[1]))


if __name__ == "__main__":
    main()
