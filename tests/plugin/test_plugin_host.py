"""The plugin by itself: its own host, xdist, its texts, and that it stays out of the way."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sandbox_anyio.local.launch import LocalHost

from ._runs import PLUGIN, Run


def test_the_host_of_a_session(pytester: pytest.Pytester, run: Run) -> None:
    """It starts with the first test that asks for it, and sandboxes of others' clients count."""
    pytester.makepyfile(
        """
        import json, urllib.request

        def test_before(request):
            from sandbox_anyio.pytest_plugin.hosts import OWN_HOST
            assert OWN_HOST not in request.config.stash

        def test_first(sandbox_sync, sandbox_host):
            assert sandbox_host.isolation == "none"
            assert sandbox_sync.run("echo hi").stdout == "hi\\n"

        def test_another_client(sandbox_host):
            request = urllib.request.Request(
                f"{sandbox_host.endpoint}/boxes",
                json.dumps({"name": "foreign"}).encode(),
                {"X-Api-Key": sandbox_host.api_key, "Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request) as answer:
                assert json.load(answer)["name"] == "foreign"

        def test_afterwards(sandbox_client_sync):
            assert sandbox_client_sync.list_sandboxes() == []
        """
    )
    done = run("--sandbox-isolation=none")
    done.assert_outcomes(passed=4, errors=1)
    done.stdout.fnmatch_lines(
        ["  [*] sandbox 'foreign' is still on sandbox_host, made by no client of this process"]
    )


def test_a_machine_that_cannot(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.executable", "/bin/false")
    pytester.makepyfile("def test_it(sandbox_client_sync): pass\ndef test_two(sandbox_host): pass")
    done = run()
    done.assert_outcomes(errors=2)
    done.stdout.fnmatch_lines(
        [
            "sandbox_host: the embedded host did not start: it exited with status 1",
            "If the tests may run their commands unprotected*pytest --sandbox-isolation=none",
        ]
    )


def test_each_worker_of_xdist_has_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, pathlib

        def test_it(sandbox_sync, sandbox_host):
            assert sandbox_sync.run("echo hi").stdout == "hi\\n"
            worker = os.environ["PYTEST_XDIST_WORKER"]
            pathlib.Path(os.environ["OUT"], worker).write_text(sandbox_host.endpoint)
        """
    )
    pytester.makeini("[pytest]\nsandbox_isolation = none\n")
    out = pytester.mkdir("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(out))
        done = pytester.runpytest_subprocess(
            *("-p", PLUGIN, "-p", "no:asyncio", "-p", "no:trio"),
            *("-n", "2", "--dist", "each", "-W", "error"),
            timeout=60,
        )
    done.assert_outcomes(passed=2)
    assert len({path.read_text() for path in out.iterdir()}) == 2


def test_another_host_is_asked_for_what_this_test_made(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost
) -> None:
    """Others may use it at the same time: theirs are none of our business."""
    pytester.makepyfile(
        """
        import json, urllib.request

        def test_it(sandbox_client_sync, sandbox_host):
            request = urllib.request.Request(
                f"{sandbox_host.endpoint}/boxes",
                json.dumps({"name": "foreign"}).encode(),
                {"X-Api-Key": sandbox_host.api_key, "Content-Type": "application/json"},
            )
            urllib.request.urlopen(request).close()

        def test_clean_up(sandbox_client_sync):
            sandbox_client_sync.delete_sandbox("foreign")
        """
    )
    run().assert_outcomes(passed=2)


def test_options_for_clients_and_sandboxes(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def sandbox_client_options():
            return {"headers": {"x-team": "blue"}}

        @pytest.fixture
        def sandbox_options():
            return {"name": "chosen"}

        def test_it(sandbox_sync, sandbox_client_sync, model_host):
            assert sandbox_sync.name == "chosen"
            assert sandbox_client_sync.config.headers["x-team"] == "blue"
            assert model_host.client.config.headers["x-team"] == "blue"
        """
    )
    run().assert_outcomes(passed=1)


def test_the_network_can_be_blocked(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from sandbox_anyio import SandboxClient

        def test_real():
            with SandboxClient(api_endpoint="http://127.0.0.1:9", trust_env=False) as client:
                client.list_sandboxes()

        @pytest.mark.anyio
        async def test_model(model_host):
            async with model_host.client.sandbox():
                pass
        """
    )
    done = run("--sandbox-block-network")
    done.assert_outcomes(failed=1, passed=2)
    done.stdout.fnmatch_lines(["*NetworkBlockedError: *127.0.0.1:9*block-network forbids it"])


def test_who_does_not_use_it_does_not_meet_it(pytester: pytest.Pytester) -> None:
    """Fixtures of the same names, and no module of ours loaded but the plugin."""
    pytester.makepyfile(
        """
        import sys, pytest

        @pytest.fixture
        def sandbox():
            return "my own"

        @pytest.fixture(scope="session")
        def model_host():
            return "my own, too"

        def test_it(sandbox, model_host):
            assert (sandbox, model_host) == ("my own", "my own, too")
            ours = {name for name in sys.modules if name.startswith("sandbox_")}
            assert ours == {"sandbox_anyio", "sandbox_anyio.pytest_plugin"}
        """
    )
    done = pytester.runpytest_subprocess("-p", PLUGIN, "-p", "no:asyncio", "-W", "error")
    done.assert_outcomes(passed=1)


def test_loading_it_is_light() -> None:
    code = "import sys, pytest; before = set(sys.modules); import sandbox_anyio.pytest_plugin"
    code += "; print(*sorted(set(sys.modules) - before - set(sys.stdlib_module_names)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sandbox_anyio", "sandbox_anyio.pytest_plugin"]


def test_its_texts(run: Run) -> None:
    done = run("--markers")
    done.stdout.fnmatch_lines(
        [
            "@pytest.mark.sandbox_trace(*",
            "@pytest.mark.sandbox_budget(*",
            "@pytest.mark.sandbox_leaks_allowed: *",
        ]
    )
    done = run("--fixtures", "-v")
    done.stdout.fnmatch_lines_random(
        [
            f"{name} *"
            for name in (
                "sandbox_host",
                "sandbox_client",
                "sandbox_client_sync",
                "sandbox",
                "sandbox_sync",
                "model_host",
                "sandbox_requests",
                "sandbox_client_options",
                "sandbox_options",
            )
        ]
    )
    ours = done.stdout.str().partition("fixtures defined from sandbox_anyio")[2]
    assert "no docstring" not in ours.partition("fixtures defined from")[0]
    done = run("--help")
    done.stdout.fnmatch_lines_random(
        ["*--sandbox-record-mode=*", "*--sandbox-isolation=*", "*--sandbox-block-network*"]
    )
