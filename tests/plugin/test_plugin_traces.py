"""The marker `sandbox_trace` in all record modes: what is recorded, played, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox_anyio.local.launch import LocalHost

from ._runs import Run

TEST = """
import pytest

pytestmark = pytest.mark.anyio

@pytest.mark.sandbox_trace
async def test_it(sandbox):
    assert (await sandbox.run("echo hello")).stdout == "hello\\n"
"""


@pytest.fixture
def trace(pytester: pytest.Pytester) -> Path:
    """Where the trace of `TEST` is."""
    pytester.makepyfile(test_a=TEST)
    return pytester.path / "traces" / "test_a" / "test_it.jsonl"


def change(pytester: pytest.Pytester, old: str, new: str) -> None:
    path = pytester.path / "test_a.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_none_is_the_default_and_says_how_to_record(
    pytester: pytest.Pytester, run: Run, trace: Path
) -> None:
    # There is no host here that could be asked.
    done = run("-p", "no:cacheprovider", "-k", "asyncio")
    done.assert_outcomes(errors=1, deselected=1)
    done.stdout.fnmatch_lines(
        [
            f"there is no trace {trace}",
            "record it with: pytest 'test_a.py::test_it[[]asyncio]' --sandbox-record-mode=once",
        ]
    )
    assert not trace.parent.exists()


def test_once_records_what_is_not_there(
    pytester: pytest.Pytester, run: Run, trace: Path, shared_host: LocalHost
) -> None:
    done = run("--sandbox-record-mode=once")  # trio plays what asyncio has recorded
    done.assert_outcomes(passed=2)
    recorded = trace.read_text()
    assert recorded.startswith('{"sandbox-trace"')
    assert shared_host.api_key not in recorded
    assert [path.name for path in trace.parent.iterdir()] == ["test_it.jsonl"]
    run("--sandbox-record-mode=once").assert_outcomes(passed=2)
    assert trace.read_text() == recorded
    # Now without any host, and by the ini file's word.
    pytester.makeconftest("")
    pytester.makeini("[pytest]\nsandbox_record_mode = once\n")
    run("--sandbox-block-network").assert_outcomes(passed=2)


def test_a_test_that_does_something_else(
    pytester: pytest.Pytester, run: Run, trace: Path, shared_host: LocalHost
) -> None:
    run("--sandbox-record-mode=once").assert_outcomes(passed=2)
    recorded = trace.read_text()
    change(pytester, "echo hello", "echo   hello")
    done = run()
    done.assert_outcomes(failed=2)
    done.stdout.fnmatch_lines(["*PlaybackError: *echo   hello*when the trace was recorded*"])
    done.stdout.fnmatch_lines(["*record it anew with: pytest*--sandbox-record-mode=all"])
    # What is unknown to the trace is recorded, which means: all of it, from the beginning.
    done = run("--sandbox-record-mode=new_episodes", "-v")
    done.assert_outcomes(passed=2)
    assert trace.read_text() != recorded
    assert "echo   hello" in trace.read_text()
    run().assert_outcomes(passed=2)
    recorded = trace.read_text()
    run("--sandbox-record-mode=new_episodes").assert_outcomes(passed=2)
    assert trace.read_text() == recorded


def test_a_test_that_does_less(
    pytester: pytest.Pytester, run: Run, trace: Path, shared_host: LocalHost
) -> None:
    run("--sandbox-record-mode=once").assert_outcomes(passed=2)
    change(pytester, 'assert (await sandbox.run("echo hello")).stdout == "hello\\n"', "pass")
    done = run()
    done.assert_outcomes(passed=2, errors=2)
    done.stdout.fnmatch_lines(["*PlaybackError: the program did less than*"])
    change(pytester, "sandbox_trace", "sandbox_trace(strict=False)")
    run().assert_outcomes(passed=2)
    change(pytester, "(strict=False)", "")
    run("--sandbox-record-mode=new_episodes").assert_outcomes(passed=2)
    run().assert_outcomes(passed=2)


def test_a_swallowed_difference(
    pytester: pytest.Pytester, run: Run, trace: Path, shared_host: LocalHost
) -> None:
    run("--sandbox-record-mode=once").assert_outcomes(passed=2)
    with (pytester.path / "test_a.py").open("a") as file:
        file.write(
            "\n    import contextlib\n"
            "    with contextlib.suppress(Exception):\n"
            "        await sandbox.run('echo more')\n"
        )
    done = run()
    done.assert_outcomes(failed=2)
    done.stdout.fnmatch_lines(["the program asks for*which the trace does not hold (any more)*"])


def test_all_records_anew(
    pytester: pytest.Pytester, run: Run, trace: Path, shared_host: LocalHost
) -> None:
    run("--sandbox-record-mode=all").assert_outcomes(passed=2)
    recorded = trace.read_text()
    run("--sandbox-record-mode=all", "-k", "trio").assert_outcomes(passed=1, deselected=1)
    assert trace.read_text() != recorded


def test_a_recording_of_a_test_that_fails_is_put_aside(
    pytester: pytest.Pytester, run: Run, trace: Path, shared_host: LocalHost
) -> None:
    run("--sandbox-record-mode=once").assert_outcomes(passed=2)
    recorded = trace.read_text()
    change(pytester, '== "hello', '== "goodbye')
    done = run("--sandbox-record-mode=all")
    done.assert_outcomes(failed=2)
    failed = trace.with_name("test_it.jsonl.failed")
    done.stdout.fnmatch_lines([f"the test failed, so its recording was put aside: {failed}"])
    assert trace.read_text() == recorded
    assert failed.exists()
    change(pytester, '== "goodbye', '== "hello')
    run("--sandbox-record-mode=all").assert_outcomes(passed=2)
    assert not failed.exists()


def test_a_test_that_leaks_is_not_recorded(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sandbox_trace("own/name.jsonl")
        def test_it(sandbox_client_sync):
            sandbox_client_sync.create_sandbox()
        """
    )
    done = run("--sandbox-record-mode=once")
    done.assert_outcomes(passed=1, errors=1)
    assert not (pytester.path / "traces/own/name.jsonl").exists()
    # Where it is meant, it is recorded, and fails for it when played without the mark.
    source = pytester.path / "test_a_test_that_leaks_is_not_recorded.py"
    mark = "@pytest.mark.sandbox_leaks_allowed\n"
    source.write_text(source.read_text().replace("@pytest", f"{mark}@pytest", 1))
    run("--sandbox-record-mode=once").assert_outcomes(passed=1)
    assert (pytester.path / "traces/own/name.jsonl").exists()
    run().assert_outcomes(passed=1)
    source.write_text(source.read_text().replace(mark, ""))
    done = run()
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.re_match_lines_random([r"  \* sandbox 'sandbox-\w+' was not deleted"])


def test_secrets_and_large_bodies(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost
) -> None:
    pytester.makeini(
        """
        [pytest]
        sandbox_trace_dir = recorded
        sandbox_trace_redact = pin-\\d+
        sandbox_trace_redact_headers = x-team
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sandbox_trace(redact="tom-[a-z]+", redact_headers=["x-who"], beside=True)
        def test_it(sandbox_sync):
            headers = {"x-team": "blue-whales", "x-who": "somebody-else"}
            sandbox_sync.write("a", "pin-1234 tom-bombadil" + "x" * 50_000, headers=headers)
            assert len(sandbox_sync.read("a")) == 50_021
        """
    )
    run("--sandbox-record-mode=once").assert_outcomes(passed=1)
    directory = pytester.path / "recorded" / "test_secrets_and_large_bodies"
    trace = directory / "test_it.jsonl"
    written = [path.read_text() for path in (trace, *trace.with_name(f"{trace.name}.d").iterdir())]
    assert len(written) > 1
    for secret in ("pin-1234", "tom-bombadil", "blue-whales", "somebody-else", shared_host.api_key):
        assert not [text for text in written if secret in text], secret
    assert {path.name for path in directory.iterdir()} == {trace.name, f"{trace.name}.d"}
    run("--sandbox-record-mode=all").assert_outcomes(passed=1)
    run("--sandbox-block-network").assert_outcomes(passed=1)


def test_names_of_files(pytester: pytest.Pytester, run: Run, shared_host: LocalHost) -> None:
    pytester.makepyfile(
        test_a="""
        import pytest

        class TestClass:
            @pytest.mark.anyio
            @pytest.mark.parametrize("text", ["a", "b/c", "x" * 300])
            @pytest.mark.sandbox_trace
            async def test_it(self, sandbox, text):
                assert await sandbox.run(f"echo {text}")
        """
    )
    run("--sandbox-record-mode=once").assert_outcomes(passed=6)
    names = sorted(path.name for path in (pytester.path / "traces" / "test_a").iterdir())
    assert len(names) == 3
    assert names[0] == "TestClass.test_it[a].jsonl"
    assert names[1].startswith("TestClass.test_it[b-c]-")
    assert all(len(name) < 150 for name in names)


def test_no_other_client_opens_a_connection_in_a_replay(
    pytester: pytest.Pytester, run: Run, trace: Path, shared_host: LocalHost
) -> None:
    run("--sandbox-record-mode=once").assert_outcomes(passed=2)
    with (pytester.path / "test_a.py").open("a") as file:
        file.write(
            "\n    from sandbox_anyio import AsyncSandboxClient\n"
            f"    async with AsyncSandboxClient(api_endpoint={shared_host.endpoint!r}) as other:\n"
            "        await other.list_sandboxes()\n"
        )
    done = run()
    done.assert_outcomes(failed=2)
    done.stdout.fnmatch_lines(["*NetworkBlockedError: a client asks*this test replays a trace*"])


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        ("sandbox_trace(reduct='x')", "*got an unexpected keyword argument 'reduct'*"),
        ("sandbox_trace('a', 'b')", "*sandbox_trace: takes from 0 to 1 positional arguments*"),
        ("sandbox_trace(redact='(')", "*redact: '(' is no regular expression*"),
    ],
)
def test_marks_that_are_wrong(
    pytester: pytest.Pytester, run: Run, shared_host: LocalHost, mark: str, complaint: str
) -> None:
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.{mark}\ndef test_it(sandbox_client_sync): pass\n"
    )
    done = run("--sandbox-record-mode=once")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines([complaint])


def test_one_trace_one_client(pytester: pytest.Pytester, run: Run, shared_host: LocalHost) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.sandbox_trace
        def test_it(sandbox_client, sandbox_client_sync): pass
        """
    )
    done = run("--sandbox-record-mode=once")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["a trace holds what one client says, and this test has two*"])


def test_a_mode_that_there_is_not(pytester: pytest.Pytester, run: Run, trace: Path) -> None:
    pytester.makeini("[pytest]\nsandbox_record_mode = sometimes\n")
    done = run()
    done.stderr.fnmatch_lines(["*sandbox_record_mode is one of none, once, *not 'sometimes'*"])
    assert done.ret != 0
