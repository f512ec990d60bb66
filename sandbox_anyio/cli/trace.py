"""``sandbox trace``: recordings are shown, compared, and done again."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sandbox_proto.trace.diff import Change, compare
from sandbox_proto.trace.lines import Trace, TraceError, dump
from sandbox_proto.trace.reexecution import Report, verify
from sandbox_proto.trace.story import (
    Level,
    Mood,
    Story,
    StoryEvent,
    condensed,
    headline,
    tell,
)
from sandbox_proto.trace.story_words import printable

from ..replaying import beside, load_trace
from . import trace_view

_ABOUT = """\
A trace is what a client wrote down: AsyncSandboxClient(record="session.jsonl"), the variable
SANDBOX_RECORD, or `sandbox record`."""

_SHOW_EXAMPLES = """\
examples:
  sandbox trace show session.jsonl
  sandbox trace show --frames --actor command-1 session.jsonl
  sandbox trace show --actor flow session.jsonl       all flows
  sandbox trace show --json session.jsonl | jq 'select(.mood == "bad") | .summary'

Times are seconds since the recording began. An actor is who did it: flow-N is one operation of
the client, command-N a command, tunnel-N a tunnel and tunnel-N/M a connection through it,
http-N a connection that carries requests (shown with --frames)."""

_DIFF_EXAMPLES = """\
examples:
  sandbox trace diff yesterday.jsonl today.jsonl
  sandbox trace diff --quiet a.jsonl b.jsonl && echo the same

Compared is what was done and what came of it: requests and answers, commands with their output
and exit, connections through tunnels, messages. Not compared are times, invented names and ids,
dates, local ports, masked values, where chunks end, and the order of what runs side by side.

The exit status is 0 if both do the same, 1 if not, 2 if one cannot be read."""

_VERIFY_EXAMPLES = """\
examples:
  sandbox trace verify session.jsonl
  sandbox trace verify --quiet recordings/*.jsonl

Feeds what was recorded to the code that is installed here, and compares all that it says. A
difference means that the file was changed after it was recorded, or that the code was: then
record it anew, if the new way is right.

The exit status is 0 if everything is as recorded, 1 if not, 2 if a file cannot be read."""

_VIEW_EXAMPLES = """\
examples:
  sandbox trace view session.jsonl                    writes session.html
  sandbox trace view session.jsonl -o out.html --open
  sandbox trace view session.jsonl -o - > out.html

The page is one file that needs nothing else: no network, no server."""

_UNREADABLE = 2
_COLOURS = {Mood.GOOD: "green", Mood.ODD: "yellow", Mood.BAD: "bold red"}
_SHOWN_LEFT_OUT = 10


def add_trace(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand, its options and its help."""
    trace = commands.add_parser(
        "trace",
        help="show, compare, check and view recordings",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = trace.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = _add(actions, "show", "tell what happened, line by line", _SHOW_EXAMPLES)
    show.add_argument("file", metavar="FILE", help="the recording")
    show.add_argument(
        "--actor",
        action="append",
        default=[],
        metavar="NAME",
        help="only this actor (command-1), or all of a kind (command); may be repeated",
    )
    show.add_argument(
        "--frames", action="store_true", help="also frames and bytes, in both directions"
    )
    show.add_argument("-v", "--verbose", action="store_true", help="also deadlines, and the rest")
    show.add_argument("--json", action="store_true", help="print an object a line")
    diff = _add(actions, "diff", "say what two recordings do differently", _DIFF_EXAMPLES)
    diff.add_argument("first", metavar="A", help="a recording")
    diff.add_argument("second", metavar="B", help="another one")
    diff.add_argument("--quiet", action="store_true", help="only the exit status")
    check = _add(actions, "verify", "do again what was recorded, and compare", _VERIFY_EXAMPLES)
    check.add_argument("files", nargs="+", metavar="FILE", help="recordings")
    check.add_argument("--quiet", action="store_true", help="say nothing of those that hold")
    view = _add(actions, "view", "make a page of it, with a timeline", _VIEW_EXAMPLES)
    view.add_argument("file", metavar="FILE", help="the recording")
    view.add_argument(
        "-o", "--output", metavar="FILE", help="where to (default: beside it, .html); - is stdout"
    )
    view.add_argument("--open", action="store_true", help="open it in the browser")


def _add(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, more: str
) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def trace(options: argparse.Namespace) -> int:
    """Carry it out. Returns the exit status."""
    try:
        status = _ACTIONS[options.action](options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # as `head` leaves
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (TraceError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return _UNREADABLE


def _load(path: str) -> Trace:
    """A trace; what is wrong with it names the file.

    :raises TraceError: it is none, or cannot be read.
    """
    try:
        return load_trace(path)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}") from None


def _tell(path: str) -> Story:
    return tell(_load(path), beside(path))


# --- show -----------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    story = _tell(options.file)
    level = Level.ALL if options.verbose else Level.FRAMES if options.frames else Level.MAIN
    events = [event for event in story.events if event.level <= level]
    if options.actor:
        wanted = set(options.actor)
        if unknown := wanted - _names(story):
            known = ", ".join(sorted({lane.name for lane in story.lanes}))
            raise TraceError(f"{options.file} has no actor {min(unknown)!r}; it has: {known}")
        events = [event for event in events if wanted & _names_of(event)]
    if options.json:
        for event in events:
            sys.stdout.write(dump(event.to_data()))
        return 0
    say = _printer()
    if level is Level.MAIN:
        events = condensed(events)
    width = max((len(event.lane) for event in events), default=0)
    for event, begins in _grouped(events):
        if begins:
            say("", "")
        indent = "" if event.kind == "operation" else "  "
        style = "bold" if event.kind == "operation" else _COLOURS.get(event.mood, "")
        if event.level > Level.MAIN and not style:
            style = "dim"
        say(f"{event.at:10.3f}  {event.lane:{width}}  ", f"{indent}{event.summary}", style)
    say("", "")
    say("", headline(story), "bold")
    return 0


def _names(story: Story) -> set[str]:
    return {name for lane in story.lanes for name in (lane.name, lane.kind)}


def _names_of(event: StoryEvent) -> set[str]:
    return {event.actor, event.lane, event.actor.partition("-")[0]}


def _grouped(events: Iterable[StoryEvent]) -> Iterator[tuple[StoryEvent, bool]]:
    """Events, and whether something new begins with each while nothing else is going on."""
    busy_until = float("-inf")
    first = True
    for event in events:
        begins = event.kind == "operation" and event.at >= busy_until and not first
        if event.kind == "operation" and event.until is not None:
            busy_until = max(busy_until, event.until)
        first = False
        yield event, begins


def _printer() -> Callable[..., None]:
    """Prints a dim part and a part in a style; plainly, where nobody looks."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.text import Text
        except ImportError:  # the extra `cli` brings it
            pass
        else:
            console = Console(highlight=False)

            def colourful(dim: str, text: str, style: str = "") -> None:
                console.print(Text.assemble((dim, "dim"), (text, style)), soft_wrap=True)

            return colourful

    def plain(dim: str, text: str, style: str = "") -> None:
        print(f"{dim}{text}")

    return plain


# --- diff -----------------------------------------------------------------------------


def _diff(options: argparse.Namespace) -> int:
    changes = compare(_tell(options.first), _tell(options.second))
    if not options.quiet:
        _print_changes(changes, options.first, options.second)
    return 1 if changes else 0


def _print_changes(changes: list[Change], first: str, second: str) -> None:
    say = _printer()
    if not changes:
        print("both do the same")
        return
    say("", f"--- A: {printable(first)}", "red")
    say("", f"+++ B: {printable(second)}", "green")
    where = None
    for change in changes:
        if change.where != where or change.where.startswith("only "):
            where = change.where
            say("", "")
            say("", where, "bold")
        sides = (("A", change.line_before), ("B", change.line_after))
        lines = [f"{side} line {number}" for side, number in sides if number is not None]
        for text in change.lines():
            say("", f"  {text}", "red" if text.startswith("-") else "green")
        say(f"      ({', '.join(lines)})", "")
    count = len(changes)
    say("", "")
    say("", f"{count} difference{'' if count == 1 else 's'}", "bold")


# --- verify ---------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    status = 0
    for path in options.files:
        try:
            trace = _load(path)
            report = _verified(path, trace)
        except TraceError as error:
            print(f"sandbox: {error}", file=sys.stderr)
            status = _UNREADABLE
            continue
        if report.difference is not None:
            print(f"sandbox: {path} {_told_difference(report)}", file=sys.stderr)
            status = max(status, 1)
        elif not options.quiet:
            _print_report(path, report)
    return status


def _verified(path: str, trace: Trace) -> Report:
    """:raises TraceError: it is malformed, or content of it is missing."""
    try:
        return verify(trace, beside(path))
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    except OSError as error:
        missing = f"content that is kept beside it cannot be read: {error}"
        raise TraceError(f"{path}: {missing}") from None


def _print_report(path: str, report: Report) -> None:
    print(f"{printable(path)}: {report.steps} steps of {report.actors} actors, all as recorded")
    left_out = list(report.left_out.items())
    for actor, reason in left_out[:_SHOWN_LEFT_OUT]:
        print(f"  not done again: {printable(actor)}: {printable(reason)}")
    if len(left_out) > _SHOWN_LEFT_OUT:
        print(f"  and {len(left_out) - _SHOWN_LEFT_OUT} more")


def _told_difference(report: Report) -> str:
    found = report.difference
    assert found is not None
    lines = [
        f"is not what this code does: line {found.line}, actor {found.actor}, at "
        f"{found.step!r} ({report.steps} steps before it are as recorded)",
        f"  recorded: {found.expected}",
        f"  now:      {found.got}",
        "  If nobody changed the file, the code behaves differently now: record it anew if that "
        "is right.",
    ]
    return "\n".join(printable(line) for line in lines)


# --- view -----------------------------------------------------------------------------


def _view(options: argparse.Namespace) -> int:
    trace = _load(options.file)
    page = trace_view.page_of(trace, tell(trace, beside(options.file)), Path(options.file).name)
    if options.output == "-":
        sys.stdout.write(page)
        return 0
    target = Path(options.output or Path(options.file).with_suffix(".html"))
    target.write_text(page, encoding="utf-8")
    print(target)
    if options.open:
        import webbrowser

        if not webbrowser.open(target.absolute().as_uri()):
            print("sandbox: there is no browser to open it in", file=sys.stderr)
            return 1
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "show": _show,
    "diff": _diff,
    "verify": _verify,
    "view": _view,
}
