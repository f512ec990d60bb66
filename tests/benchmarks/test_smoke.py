"""The benchmarks work: every case in its smallest size, counts asserted, no times judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_case_runs_and_is_told(tmp_path: Path) -> None:
    document, chart = tmp_path / "run.json", tmp_path / "run.svg"
    done = run("--size", "small", "--json", str(document), "--chart", str(chart))
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in run("--list").stdout.splitlines()}
    told = json.loads(document.read_text())
    assert {case["case"] for case in told["cases"]} == listed
    for case in told["cases"]:
        [samples] = case["rounds"]
        assert all(sample["wall"] > 0 for sample in samples.values())
        assert all(target["value"] > 0 for target in case["targets"])
        assert case["title"] in done.stdout
    bars = ElementTree.parse(chart).getroot().findall("{*}rect")
    against_vendor = [
        target
        for case in told["cases"]
        for target in case["targets"]
        if target["than"] == "vendor" and ">=" in target["asked"]
    ]
    assert len(bars) == len(against_vendor) + 1  # the background


def test_growth_runs_and_is_told(tmp_path: Path) -> None:
    document, chart = tmp_path / "growth.json", tmp_path / "growth.svg"
    done = run("growth", "--size", "small", "--json", str(document), "--chart", str(chart))
    assert done.returncode == 0, done.stderr
    grown = json.loads(document.read_text())
    assert all(step["cpu"] > 0 for growth in grown for step in growth["steps"])
    lines = ElementTree.parse(chart).getroot().findall(".//{*}polyline")
    assert len(lines) == 3 * len(grown)


def test_an_unknown_case_is_refused() -> None:
    done = run("no-such-case")
    assert (done.returncode, "--list" in done.stderr) == (2, True)
