"""The example of the README, as it stands, by somebody who has read nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from ._runs import Run


def test_as_it_stands(pytester: pytest.Pytester, run: Run) -> None:
    text = Path(__file__).with_name("stranger_example.py").read_text()
    assert len(text.splitlines()) <= 20
    pytester.makepyfile(test_sandboxes=text)
    done = run("--sandbox-record-mode=once")
    done.assert_outcomes(passed=6, errors=2)
    done.stdout.re_match_lines_random(
        [
            r"  \* sandbox 'sandbox-\w+' is still on sandbox_host",
            r"      made at test_sandboxes\.py:19 in test_leaves_a_sandbox_behind_and_fails",
        ]
    )
    done = run("--sandbox-block-network", "-k", "recorded")
    done.assert_outcomes(passed=2, deselected=4)
    assert done.duration < 0.9  # of the two seconds that the commands had slept
