"""The supervisor: starts commands and opens files inside one sandbox, on request.

It runs in the sandbox's namespaces, confined like everything it starts, and moves no bytes:
it hands out descriptors and tells how commands end. It is one thread with one loop, so no
request may take long. What waits (the end of a command, a freeze) is told later.

To the host a supervisor is untrusted: a sandboxed program that breaks the kernel's rules
could speak in its place.

Standard library only, and nothing is imported once it runs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from . import accounts, confinement, guarded_files, linux, messages, processes, searching
from .defaults import HOME

_MAX_PENDING_UPLOADS: Final = 256
_MAX_SEARCHES: Final = 32
_MAX_ENDED_REMEMBERED: Final = 4096
_REAPED_PER_TURN: Final = 256
_SEARCH_GRACE_SECONDS: Final = 5
_FREEZE_SECONDS: Final = 2.0
_ORDERLY_FREEZE_SECONDS: Final = 0.2
_UNINTERRUPTIBLE_SECONDS: Final = 1.0
_FREEZE_POLL_SECONDS: Final = 0.001


class Refusal(Exception):
    """A request that cannot be granted.

    :ivar kind: ``"spawn"`` or ``"path"``: which error of the interface this becomes.
    """

    def __init__(self, kind: str, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.code = code


class Answer(NamedTuple):
    """What a request is answered with. The descriptors are closed once they are sent."""

    body: Mapping[str, Any] = {}
    descriptors: Sequence[int] = ()


class Freeze:
    """A freeze that is under way."""

    def __init__(self, request: int) -> None:
        self.request = request
        self.began = time.monotonic()
        self.finishing = False


class Supervisor:
    """Serves the requests that arrive on one socket, until its other end is closed."""

    def __init__(self, control: socket.socket, search_path: str) -> None:
        self._control = control
        self._search_path = search_path
        self._root = guarded_files.open_root()
        self._home = HOME if _is_directory(HOME) else accounts.home_of_root(self._root)
        # Pid 1, the holder and this process: who kills these ends the sandbox.
        self._spared = frozenset(processes.read_table())
        self._running: dict[int, int] = {}  # pid -> command
        self._ended: dict[int, int] = {}  # command -> pid its session is known by
        self._uploads: dict[int, guarded_files.PendingUpload] = {}
        self._searches: set[int] = set()  # pids
        self._freeze: Freeze | None = None
        self._stood_before: set[int] | None = None
        self._operations: dict[str, Callable[[dict[str, Any], list[int]], Answer | None]] = {
            "exec": self._exec,
            "kill": self._kill,
            "freeze": self._begin_freeze,
            "thaw": self._thaw,
            "open": self._open,
            "create": self._create,
            "commit": self._commit,
            "abort": self._abort,
            "search": self._search,
            "socket": self._socket,
        }

    def serve(self) -> None:
        """Answer until the host is gone, and leave no half-written file."""
        try:
            self._serve_until_end()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the host was gone when it was told something
        finally:
            for upload in self._uploads.values():
                upload.abort()

    def _serve_until_end(self) -> None:
        wakeup_read, wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(wakeup_read, select.POLLIN)
        messages.send(self._control, {"ready": True, "home": self._home})
        more_to_reap = False
        while True:
            ready = {descriptor for descriptor, _ in poller.poll(self._patience(more_to_reap))}
            if wakeup_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup_read, 4096)
            if wakeup_read in ready or more_to_reap:
                more_to_reap = self._reap()
            if self._freeze is not None:
                self._continue_freeze(self._freeze)
            if self._control.fileno() in ready:
                message = messages.receive(self._control, spills=True)
                if message is None:
                    break
                self._handle(message)

    def _patience(self, more_to_reap: bool) -> float | None:
        if more_to_reap:
            return 0
        return _FREEZE_POLL_SECONDS * 1000 if self._freeze is not None else None

    def _handle(self, message: messages.Message) -> None:
        request = message.body.get("id")
        answer: Answer | None
        try:
            answer = self._operations[message.body["do"]](message.body, message.descriptors)
        except Refusal as refusal:
            answer = Answer(
                {
                    "refused": refusal.kind,
                    "message": refusal.message[:1000],
                    "errno": refusal.code,
                }
            )
        except Exception as error:  # a sandbox must not end by one request that went wrong
            text = f"{type(error).__name__}: {error}"
            answer = Answer({"refused": "failure", "message": text[:1000], "errno": 0})
        finally:
            message.close()
        if answer is not None and request is not None:
            self._reply(request, answer)

    def _reply(self, request: int, answer: Answer) -> None:
        try:
            messages.send(self._control, {"id": request, **answer.body}, answer.descriptors)
        finally:
            messages.close_all(answer.descriptors)

    # --- Commands ------------------------------------------------------------------

    def _exec(self, body: dict[str, Any], descriptors: list[int]) -> Answer:
        env = body["env"]
        try:
            accounts.require_root(self._root, body["user"])
            if not body["pty"]:
                pid = self._start(body, env, descriptors)
                return self._started(body["id"], pid)
            master, slave, path = processes.open_terminal()
            try:
                pid = self._start(body, env, path)
            except BaseException:
                os.close(master)
                raise
            finally:
                os.close(slave)
            return self._started(body["id"], pid, [master])
        except (accounts.AccountError, processes.StartError) as error:
            raise Refusal("spawn", str(error)) from error
        except OSError as error:  # no terminal to be had
            raise Refusal("spawn", os.strerror(error.errno or 0)) from error

    def _start(
        self, body: Mapping[str, Any], env: Mapping[str, str], streams: Sequence[int] | str
    ) -> int:
        directory = body["cwd"]
        if directory is None:
            directory = self._home if _is_directory(self._home) else "/"
        return processes.start(body["argv"], env, directory, self._search_path, streams)

    def _started(self, command: int, pid: int, descriptors: Sequence[int] = ()) -> Answer:
        self._running[pid] = command
        return Answer({"pid": pid}, descriptors)

    def _reap(self) -> bool:
        """Reap what has ended, orphans too. True if there may be more."""
        for _ in range(_REAPED_PER_TURN):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return False
            self._searches.discard(pid)
            command = self._running.pop(pid, None)
            if command is not None:
                self._ended[command] = pid
                if len(self._ended) > _MAX_ENDED_REMEMBERED:
                    del self._ended[next(iter(self._ended))]
                code = processes.exit_code(status)
                messages.send(self._control, {"exit": command, "code": code})
        return True

    def _kill(self, body: dict[str, Any], descriptors: list[int]) -> Answer:
        command = body["command"]
        for pid, running in self._running.items():
            if running == command:
                processes.kill_family(pid, self._spared, reaped=False)
                return Answer()
        if command in self._ended:
            processes.kill_family(self._ended[command], self._spared, reaped=True)
        return Answer()

    # --- Standing still ------------------------------------------------------------

    def _begin_freeze(self, body: dict[str, Any], descriptors: list[int]) -> None:
        if self._freeze is not None:
            raise Refusal("failure", "already freezing")
        if self._stood_before is None:
            # Jobs somebody stopped on purpose must not go on at thaw.
            table = processes.read_table()
            self._stood_before = {pid for pid, process in table.items() if process.state in "Tt"}
        self._freeze = Freeze(body["id"])
        self._continue_freeze(self._freeze)

    def _continue_freeze(self, freeze: Freeze) -> None:
        ready, running = processes.next_to_stop(processes.read_table(), self._spared)
        elapsed = time.monotonic() - freeze.began
        if not freeze.finishing:
            if running and elapsed < _ORDERLY_FREEZE_SECONDS:
                processes.send_signal(ready, signal.SIGSTOP)
                return
            # To all but pid 1 and this process, in one step that no fork can escape. The
            # holder stands too, which hurts nobody.
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGSTOP)
            freeze.finishing = True
            _, running = processes.next_to_stop(processes.read_table(), self._spared)
        # What sleeps uninterruptibly for long waits for a vfork child that stands, or for a
        # disk. Either way it stops before its next instruction.
        if not running or (running == {"D"} and elapsed > _UNINTERRUPTIBLE_SECONDS):
            self._freeze = None
            self._reply(freeze.request, Answer())
        elif elapsed > _FREEZE_SECONDS:
            self._freeze = None
            self._let_go()
            self._reply(
                freeze.request,
                Answer({"refused": "failure", "message": "some process did not stop", "errno": 0}),
            )

    def _thaw(self, body: dict[str, Any], descriptors: list[int]) -> Answer:
        if self._freeze is not None:  # whoever began it has given up
            unfinished, self._freeze = self._freeze, None
            self._reply(
                unfinished.request,
                Answer({"refused": "failure", "message": "thawed before it stood", "errno": 0}),
            )
        self._let_go()
        return Answer()

    def _let_go(self) -> None:
        if self._stood_before is None:
            return  # nothing was stopped
        table = processes.read_table()
        pids = set(table) - self._stood_before
        processes.send_signal(processes.children_first(pids, table), signal.SIGCONT)
        self._stood_before = None

    # --- Files and sockets ---------------------------------------------------------

    def _check_path_request(self, body: Mapping[str, Any]) -> str:
        path = body["path"]
        if not isinstance(path, str) or not path.startswith("/"):
            raise Refusal("path", "not an absolute path", errno.EINVAL)
        try:
            accounts.require_root(self._root, body["user"])
        except accounts.AccountError as error:
            raise Refusal("path", str(error), errno.EACCES) from error
        return path

    def _open(self, body: dict[str, Any], descriptors: list[int]) -> Answer:
        path = self._check_path_request(body)
        with _path_refusals():
            return Answer({}, [guarded_files.open_regular(self._root, path)])

    def _create(self, body: dict[str, Any], descriptors: list[int]) -> Answer:
        path = self._check_path_request(body)
        if len(self._uploads) >= _MAX_PENDING_UPLOADS:
            raise Refusal("path", "too many unfinished uploads", errno.EMFILE)
        with _path_refusals():
            upload = guarded_files.PendingUpload(self._root, path)
            self._uploads[body["id"]] = upload
            return Answer({}, [os.dup(upload.descriptor)])

    def _commit(self, body: dict[str, Any], descriptors: list[int]) -> Answer:
        upload = self._uploads.pop(body["upload"], None)
        if upload is not None:
            with _path_refusals():
                upload.commit()
        return Answer()

    def _abort(self, body: dict[str, Any], descriptors: list[int]) -> Answer:
        upload = self._uploads.pop(body["upload"], None)
        if upload is not None:
            upload.abort()
        return Answer()

    def _search(self, body: dict[str, Any], descriptors: list[int]) -> Answer:
        self._check_path_request(body)
        if len(self._searches) >= _MAX_SEARCHES:
            raise Refusal("path", "too many searches at a time", errno.EAGAIN)
        with _path_refusals():
            child = os.fork()
            if child == 0:
                self._be_a_search(body["question"], descriptors[0])
            self._searches.add(child)
            return Answer()

    def _be_a_search(self, question: Mapping[str, Any], output: int) -> NoReturn:
        """What takes long is done by a child, which has this process's rights and no more."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Should it ever forget the time, the kernel does not.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(question["seconds"]) + _SEARCH_GRACE_SECONDS)
            confinement.close_descriptors_except([self._root, output])
            linux.set_process_name("search")
            walk = searching.Walk(question, output)
            walk.run(lambda path: guarded_files.open_readable(self._root, path))
        finally:
            os._exit(0)

    def _socket(self, body: dict[str, Any], descriptors: list[int]) -> Answer:
        family = socket.AF_INET6 if body["family"] == "inet6" else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        return Answer({}, [made.detach()])


def _is_directory(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112


@contextlib.contextmanager
def _path_refusals() -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        raise Refusal("path", "not a file name", errno.EINVAL) from error
    except OSError as error:
        raise Refusal("path", error.strerror or str(error), error.errno or errno.EIO) from error
