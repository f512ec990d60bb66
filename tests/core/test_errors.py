"""The exceptions and faults: protocol/03 section 1, to the letter, and ours beside them."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from sandbox_proto import errors
from sandbox_proto.errors import ErrorContext, LocalProtocolError, SandboxClientError
from sandbox_proto.faults import Fault, FaultKind, Phase
from sandbox_proto.wire.command_models import ExecutionResult

from ._helpers import KEY, make_request

# (class, parent, arguments, keywords, attributes, text)
FAILED = ExecutionResult("out", "err", 3)
TAXONOMY = [
    ("LangSmithError", "Exception", ["m"], {}, {}, "m"),
    ("SandboxClientError", "LangSmithError", ["m"], {}, {}, "m"),
    ("SandboxAPIError", "SandboxClientError", ["m"], {}, {}, "m"),
    ("SandboxAuthenticationError", "SandboxClientError", ["m"], {}, {}, "m"),
    ("SandboxConnectionError", "SandboxClientError", ["m"], {}, {}, "m"),
    (
        "SandboxRetryableConnectionError",
        "SandboxConnectionError",
        ["m"],
        {"retry_after": 2.5},
        {"retry_after": 2.5},
        "m",
    ),
    (
        "SandboxConnectTimeoutError",
        "SandboxRetryableConnectionError",
        ["m"],
        {},
        {"retry_after": None},
        "m",
    ),
    ("SandboxServerReloadError", "SandboxConnectionError", ["m"], {}, {}, "m"),
    (
        "ResourceNotFoundError",
        "SandboxClientError",
        ["m", "file"],
        {},
        {"resource_type": "file"},
        "m",
    ),
    (
        "ResourceTimeoutError",
        "SandboxClientError",
        ["m", "sandbox", "stopped"],
        {},
        {"resource_type": "sandbox", "last_status": "stopped"},
        "m (last_status: stopped)",
    ),
    ("ResourceInUseError", "SandboxClientError", ["m", "x"], {}, {"resource_type": "x"}, "m"),
    (
        "ResourceAlreadyExistsError",
        "SandboxClientError",
        ["m", "x"],
        {},
        {"resource_type": "x"},
        "m",
    ),
    (
        "ResourceNameConflictError",
        "SandboxClientError",
        ["m", "x"],
        {},
        {"resource_type": "x"},
        "m",
    ),
    (
        "ValidationError",
        "SandboxClientError",
        ["m", "vcpus", [{"msg": "no"}], "T"],
        {},
        {"field": "vcpus", "details": [{"msg": "no"}], "error_type": "T"},
        "m",
    ),
    ("QuotaExceededError", "SandboxClientError", ["m", "cpu"], {}, {"quota_type": "cpu"}, "m"),
    ("RateLimitError", "QuotaExceededError", ["m"], {}, {"quota_type": None}, "m"),
    (
        "ResourceCreationError",
        "SandboxClientError",
        ["m", "sandbox", "CrashLoop"],
        {},
        {"resource_type": "sandbox", "error_type": "CrashLoop"},
        "m [CrashLoop]",
    ),
    ("DataplaneNotConfiguredError", "SandboxClientError", ["m"], {}, {}, "m"),
    ("SandboxNotReadyError", "SandboxClientError", ["m"], {}, {}, "m"),
    (
        "SandboxOperationError",
        "SandboxClientError",
        ["m", "read", "ReadError"],
        {},
        {"operation": "read", "error_type": "ReadError"},
        "m [ReadError]",
    ),
    (
        "CommandTimeoutError",
        "SandboxOperationError",
        ["m", 5],
        {},
        {"timeout": 5, "operation": "command", "error_type": "CommandTimeout"},
        "m [CommandTimeout]",
    ),
    ("TunnelError", "SandboxClientError", ["m"], {}, {}, "m"),
    ("TunnelPortNotAllowedError", "TunnelError", ["m"], {"port": 80}, {"port": 80}, "m"),
    ("TunnelConnectionRefusedError", "TunnelError", ["m"], {"port": 80}, {"port": 80}, "m"),
    ("TunnelUnsupportedVersionError", "TunnelError", ["m"], {}, {}, "m"),
    ("SandboxTokenVerificationError", "SandboxClientError", ["m"], {}, {}, "m"),
    ("SandboxProtocolError", "SandboxConnectionError", ["m"], {}, {}, "m"),
    (
        "SandboxTimeoutError",
        "SandboxConnectionError",
        ["m"],
        {"limit": "read", "seconds": 3.0},
        {"limit": "read", "seconds": 3.0},
        "m",
    ),
    (
        "FileChangedError",
        "SandboxOperationError",
        ["m"],
        {},
        {"operation": "read", "error_type": "FileChanged"},
        "m [FileChanged]",
    ),
    (
        "CommandFailedError",
        "SandboxOperationError",
        ["m", FAILED],
        {},
        {"result": FAILED, "exit_code": 3, "operation": "command"},
        "m",
    ),
]
NAMES = [row[0] for row in TAXONOMY]
each = pytest.mark.parametrize(
    ("name", "parent", "args", "keywords", "attributes", "text"), TAXONOMY, ids=NAMES
)


def _public_parent(kind: type[BaseException]) -> str:
    return next(base.__name__ for base in kind.__mro__[1:] if not base.__name__.startswith("_"))


@each
def test_parents_constructors_attributes_and_text(name, parent, args, keywords, attributes, text):
    kind = getattr(errors, name)
    error = kind(*args, **keywords)
    assert _public_parent(kind) == parent
    assert {key: getattr(error, key) for key in attributes} == attributes
    assert str(error) == text


@each
@pytest.mark.parametrize("remake", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_every_error_survives_pickling_with_all_it_knows(
    name, parent, args, keywords, attributes, text, remake
):
    error = getattr(errors, name)(*args, **keywords)
    if isinstance(error, SandboxClientError):
        error.in_context(ErrorContext("GET", "http://h/x", 503, "id", "req", 1.0, 2))
    other = remake(error)
    assert type(other) is type(error)
    assert (str(other), other.args) == (text, error.args)
    assert {key: getattr(other, key) for key in attributes} == attributes
    assert getattr(other, "context", None) == getattr(error, "context", None)


def test_the_table_above_is_complete():
    public = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.LangSmithError) and not name.startswith("_")
    }
    assert public == set(NAMES)


@pytest.mark.parametrize(
    ("make", "attributes", "text"),
    [
        (lambda: errors.ResourceNotFoundError("m"), {"resource_type": None}, "m"),
        (
            lambda: errors.ResourceTimeoutError("m"),
            {"resource_type": None, "last_status": None},
            "m",
        ),
        (
            lambda: errors.ValidationError("m"),
            {"field": None, "details": [], "error_type": None},
            "m",
        ),
        (lambda: errors.QuotaExceededError("m"), {"quota_type": None}, "m"),
        (
            lambda: errors.ResourceCreationError("m"),
            {"resource_type": None, "error_type": None},
            "m",
        ),
        (lambda: errors.SandboxOperationError("m"), {"operation": None, "error_type": None}, "m"),
        (lambda: errors.CommandTimeoutError("m"), {"timeout": None}, "m [CommandTimeout]"),
        (lambda: errors.SandboxRetryableConnectionError("m"), {"retry_after": None}, "m"),
    ],
)
def test_defaults(make, attributes, text):
    error = make()
    assert {key: getattr(error, key) for key in attributes} == attributes
    assert str(error) == text


@pytest.mark.parametrize(
    "make",
    [
        lambda: errors.SandboxRetryableConnectionError("m", 1.0),
        lambda: errors.TunnelPortNotAllowedError("m", 80),
        lambda: errors.TunnelConnectionRefusedError("m"),
    ],
)
def test_keyword_only_arguments_are_keyword_only(make):
    with pytest.raises(TypeError):
        make()


def test_an_error_without_a_request_has_an_empty_context():
    error = SandboxClientError("m")
    assert (error.status, error.error_id, error.context) == (None, None, ErrorContext())
    error.in_context(ErrorContext(status=500))
    assert SandboxClientError("n").context == ErrorContext(), "the class itself was changed"


def test_errors_show_no_secrets_of_the_request():
    request = make_request(url="http://h/x?token=1", headers={"x-api-key": KEY})
    context = ErrorContext(request.method, request.url.without_query())
    assert context.url == "http://h/x"
    assert KEY not in repr(context)


def test_the_programmers_error_is_not_the_users():
    assert not issubclass(LocalProtocolError, errors.LangSmithError)


# --- faults ---------------------------------------------------------------------------

TIMEOUTS = {
    FaultKind.CONNECT_TIMEOUT: "connect",
    FaultKind.POOL_TIMEOUT: "pool",
    FaultKind.READ_TIMEOUT: "read",
    FaultKind.WRITE_TIMEOUT: "write",
    FaultKind.DEADLINE: "operation",
    FaultKind.LIVENESS: "liveness",
}
PROTOCOL = {FaultKind.PROTOCOL, FaultKind.TOO_LARGE}


@pytest.mark.parametrize("kind", FaultKind)
def test_what_each_fault_becomes(kind):
    error = Fault(kind, "what happened", Phase.SENT, seconds=4.0).to_error()
    assert str(error) == "what happened"
    if kind in TIMEOUTS:
        assert type(error) is errors.SandboxTimeoutError
        assert (error.limit, error.seconds) == (TIMEOUTS[kind], 4.0)
    elif kind in PROTOCOL:
        assert type(error) is errors.SandboxProtocolError
    else:
        assert type(error) is errors.SandboxConnectionError


@pytest.mark.parametrize("kind", FaultKind)
def test_which_faults_prove_that_nothing_was_sent(kind):
    connecting = {"UNREACHABLE", "TLS", "CONNECT_TIMEOUT", "POOL_TIMEOUT"}
    assert Fault(kind, "").while_connecting == (kind.name in connecting)


def test_phases_are_ordered():
    assert sorted(Phase) == [
        Phase.NOTHING_SENT,
        Phase.PARTLY_SENT,
        Phase.SENT,
        Phase.RESPONSE_BEGUN,
    ]
