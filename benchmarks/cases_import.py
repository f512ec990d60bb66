"""What it costs to import the packages, in fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys

from .measuring import MIB, Case, Contender, Measure, Sample, Setting, Target

_PROGRAM = """
import json, sys, time
cpu, began = time.process_time(), time.perf_counter()
{imports}
wall, cpu = time.perf_counter() - began, time.process_time() - cpu
memory = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status")
              if line.startswith("VmRSS"))
print(json.dumps([wall, cpu, memory, len(sys.modules)]))
"""


def _importing(imports: str) -> Measure:
    async def measure(setting: Setting) -> Sample:
        command = [sys.executable, "-c", _PROGRAM.format(imports=imports)]
        done = subprocess.run(command, capture_output=True, check=True)  # noqa: ASYNC221
        wall, cpu, memory, modules = json.loads(done.stdout)
        return Sample(wall=wall, p50=wall, cpu=cpu, peak=memory, kept=memory, amount=modules)

    return measure


CASES = (
    Case(
        name="import",
        title="import of the package, and memory after it",
        contenders=(
            Contender("ours", _importing("import sandbox_anyio; sandbox_anyio.AsyncSandboxClient")),
            Contender("vendor", _importing("import langsmith.sandbox")),
            Contender("five libraries", _importing("import h11, wsproto, anyio, attrs, cattrs")),
            Contender("nothing", _importing("pass"), informative=True),
        ),
        targets=(
            Target(metric="wall", least=5.0),
            Target(metric="kept", than=None, most=25.0 * MIB),
            Target(metric="wall", than="five libraries", most=1.35),
        ),
        unit="modules",
        small=(1, 0),
        full=(1, 0),
        rounds=11,
    ),
)
