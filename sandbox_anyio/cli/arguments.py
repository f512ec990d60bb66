"""What the ``sandbox`` command accepts, and its help."""

from __future__ import annotations

import argparse
from pathlib import Path

from .copy import add_copy
from .record import add_record
from .trace import add_trace
from .tunnel import add_tunnel

_ABOUT = """\
Sandboxes from the command line.

The Sandbox API is the one that LANGSMITH_ENDPOINT names, with the key in
LANGSMITH_API_KEY. Without LANGSMITH_ENDPOINT, `sandbox run` and `sandbox shell` start a
host of their own on this machine, which needs no account and no network."""

_RUN_EXAMPLES = """\
examples:
  sandbox run -- python3 -c 'print(2 + 2)'
  sandbox run --env GREETING=hello --timeout 5 -- sh -c 'echo $GREETING'

The exit status is the command's. 125 means that the command could not be run."""

_SHELL_EXAMPLES = """\
examples:
  sandbox shell                       a new sandbox, deleted when the shell ends
  sandbox shell my-box                a look around in one that exists (`sandbox ls`)
  sandbox shell my-box --shell /bin/sh

Every key goes to the shell, Ctrl-C too; `exit` or Ctrl-D ends it. Its terminal gets the
size that this one has at the start. The exit status is the shell's; 125 means that there
was no shell to be had. For a command without a terminal there is `sandbox run`."""

_SERVE_EXAMPLES = """\
When ready, one line of JSON is printed: endpoint, api_key and isolation. Then, in
another shell:

  export LANGSMITH_ENDPOINT=http://127.0.0.1:PORT LANGSMITH_API_KEY=KEY
  sandbox run -- hostname

SIGTERM drains and exits with 0."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="sandbox", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_shell(commands)
    _add_serve(commands)
    listing = commands.add_parser("ls", help="list the sandboxes")
    listing.add_argument("--json", action="store_true", help="print the API's JSON objects")
    removing = commands.add_parser("rm", help="delete sandboxes")
    removing.add_argument("names", nargs="+", metavar="NAME", help="name or id of a sandbox")
    add_copy(commands)
    add_tunnel(commands)
    add_record(commands)
    add_trace(commands)
    commands.add_parser(
        "doctor",
        help="say what this machine can do, and where requests would go",
        description="Builds one sandbox, runs `true` in it, and says what was found.",
    )
    return parser


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        help="run one command in a new sandbox",
        description="Makes a sandbox, runs COMMAND in it, shows its output as it comes, and "
        "deletes the sandbox. Ctrl-C kills the command, and still deletes.",
        epilog=_RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("command", nargs="+", metavar="COMMAND", help="the command and its arguments")
    run.add_argument(
        "--timeout",
        type=_seconds,
        default=0,
        metavar="SECONDS",
        help="kill the command after this long (default: never)",
    )
    run.add_argument(
        "--env",
        action="append",
        type=_variable,
        default=[],
        metavar="NAME=VALUE",
        help="set an environment variable; may be repeated",
    )
    run.add_argument("--cwd", metavar="DIR", help="working directory inside the sandbox")
    run.add_argument(
        "--snapshot", metavar="REF", help="boot from this snapshot: name, name:tag or id"
    )
    _add_isolation(run)


def _add_shell(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    shell = commands.add_parser(
        "shell",
        help="type in a sandbox, as in a terminal",
        description="Starts a shell in a sandbox and connects it with this terminal. The shell "
        "ends with the terminal; a sandbox that has a NAME stays as it is.",
        epilog=_SHELL_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shell.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="name or id of a sandbox (default: a new one, which is deleted afterwards)",
    )
    shell.add_argument(
        "--shell",
        metavar="PATH",
        help="the shell inside the sandbox (default: its $SHELL, else /bin/bash, else /bin/sh)",
    )
    _add_isolation(shell)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve the Sandbox API on this machine",
        description="Serves the Sandbox API on a loopback port, with sandboxes of this machine.",
        epilog=_SERVE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument(
        "--port", type=_port, default=0, metavar="PORT", help="0 (default) lets the system choose"
    )
    serve.add_argument("--api-key", metavar="KEY", help="the key to accept (default: a new one)")
    serve.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="keep records and files here (default: they are deleted at the end)",
    )
    serve.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    _add_isolation(serve)


def _add_isolation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--isolation",
        choices=("auto", "none"),
        default="auto",
        help="auto (default): the strongest this machine offers, or refuse; "
        "none: commands run unprotected on this machine",
    )


def _seconds(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative (0 is: no limit)")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return value


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
