"""When a request is made again, and after how long (protocol/04 section 1)."""

from __future__ import annotations

import pytest

from sandbox_proto import errors
from sandbox_proto.faults import FaultKind, Phase
from sandbox_proto.flows.effects import Perform, perform
from sandbox_proto.flows.files import write_file
from sandbox_proto.flows.sandboxes import delete_sandbox, get_sandbox
from sandbox_proto.plans.retry import Repeatability, RetryPolicy, retry_delay
from sandbox_proto.plans.timeouts import Timeouts

from ._helpers import FixedRandom, Talk, fault, make_context, make_request, refusal, reply

SAFE, KEYED, UNSAFE = Repeatability.SAFE, Repeatability.KEYED, Repeatability.UNSAFE
TIMEOUTS = Timeouts.uniform(1)


def call(repeat, *, chance=0.25, **policy):
    context = make_context(chance=chance, retry=RetryPolicy(**policy))
    return perform(context, Perform(make_request("POST"), TIMEOUTS), repeat)


def milliseconds(seconds):
    return [round(1000 * each) for each in seconds]


# --- the schedule ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize(
    ("chance", "waits"),
    [
        (0.0, [1000, 2000, 4000, 8000, 10000, 10000]),
        (0.25, [1250, 2250, 4250, 8250, 10000, 10000]),
        (0.999, [1999, 2999, 4999, 8999, 10000, 10000]),
    ],
)
def test_gateway_trouble_waits_a_doubling_backoff_plus_jitter_up_to_ten_seconds(
    status, chance, waits
):
    talk = Talk([reply(status)] * 6 + [reply(200)], now=100.0)
    done = talk.run(call(SAFE, chance=chance, max_retries=6))
    assert milliseconds(talk.sleeps) == waits
    assert (done.response.status, done.attempts) == (200, 7)


def test_the_jitter_is_drawn_afresh_for_every_wait():
    context = make_context()
    random = FixedRandom(0.1, 0.2, 0.3)
    waits = [
        retry_delay(reply(503), SAFE, attempt=n, policy=context.config.retry, random=random)
        for n in range(3)
    ]
    assert milliseconds(waits) == [1100, 2200, 4300]


@pytest.mark.parametrize("repeat", Repeatability)
@pytest.mark.parametrize(
    ("header", "waits"),
    [
        (None, [1250, 2250, 4250]),
        ("5", [5250, 10250, 20250]),
        ("0.5", [750, 1250, 2250]),
        ("0", [250, 250, 250]),
        ("-7", [250, 250, 250]),
        (" 2 ", [2250, 4250, 8250]),
        ("1e1", [10250, 20250, 40250]),
        ("inf", [1250, 2250, 4250]),
        ("-inf", [1250, 2250, 4250]),
        ("nan", [1250, 2250, 4250]),
        ("soon", [1250, 2250, 4250]),
        ("", [1250, 2250, 4250]),
        # No Date to compare with, hence not to be understood:
        ("Thu, 01 Jan 2026 00:00:30 GMT", [1250, 2250, 4250]),
        ("100", [100250, 120000, 120000]),  # our cap; the vendor waits for ever longer
        ("99999999999", [120000, 120000, 120000]),
    ],
)
def test_429_is_repeated_whatever_the_request_after_what_the_server_asked(repeat, header, waits):
    headers = {} if header is None else {"retry_after": header}
    talk = Talk([refusal(429, **headers)] * 3 + [reply(200)])
    assert talk.run(call(repeat)).attempts == 4
    assert milliseconds(talk.sleeps) == waits


@pytest.mark.parametrize(
    ("retry_after", "date", "wait"),
    [
        ("Thu, 01 Jan 2026 00:00:07 GMT", "Thu, 01 Jan 2026 00:00:00 GMT", 7250),
        ("Wed, 31 Dec 2025 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:00 GMT", 250),
        ("Fri, 01 Jan 2027 00:00:00 GMT", "Thu, 01 Jan 2026 00:00:00 GMT", 120000),
        ("Thu, 01 Jan 2026 00:00:07 -0000", "Thu, 01 Jan 2026 00:00:00 GMT", 7250),
        ("Thu, 99 Jan 2026 00:00:07 GMT", "Thu, 01 Jan 2026 00:00:00 GMT", 1250),
        ("Thu, 01 Jan 2026 00:00:07 GMT", "today", 1250),
    ],
)
def test_an_http_date_counts_from_the_servers_own_date(retry_after, date, wait):
    talk = Talk([refusal(429, retry_after=retry_after, date=date), reply(200)])
    talk.run(call(UNSAFE))
    assert milliseconds(talk.sleeps) == [wait]


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("5", 5000),
        ("1", 1250),
        ("0", 1250),
        ("-1", 1250),
        ("nan", 1250),
        ("x", 1250),
        ("900", 120000),
    ],
)
@pytest.mark.parametrize("status", [502, 503, 504])
def test_gateway_trouble_waits_at_least_as_long_as_asked(status, header, wait):
    talk = Talk([refusal(status, retry_after=header), reply(200)])
    talk.run(call(SAFE))
    assert milliseconds(talk.sleeps) == [wait]


# --- what is repeated -----------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 304, 400, 401, 403, 404, 408, 409, 422, 500, 501])
@pytest.mark.parametrize("repeat", Repeatability)
def test_any_other_status_is_accepted_at_once(status, repeat):
    talk = Talk([reply(status)])
    assert talk.run(call(repeat)).attempts == 1
    assert talk.sleeps == []


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize(("repeat", "attempts"), [(SAFE, 4), (KEYED, 4), (UNSAFE, 1)])
def test_after_gateway_trouble_an_unsafe_request_is_not_repeated(status, repeat, attempts):
    talk = Talk([reply(status)] * 4)
    done = talk.run(call(repeat))
    assert (done.response.status, done.attempts, len(talk.performed)) == (
        status,
        attempts,
        attempts,
    )


CONNECTING = {FaultKind.UNREACHABLE, FaultKind.CONNECT_TIMEOUT, FaultKind.POOL_TIMEOUT}


def _repeatable(kind: FaultKind, phase: Phase, repeat: Repeatability) -> bool:
    """The rule in the plainest words: no connection; or cut off, before sending or harmlessly."""
    if kind in CONNECTING:
        return True
    if kind is not FaultKind.DISCONNECTED:
        return False
    return phase is Phase.NOTHING_SENT or repeat in (SAFE, KEYED)


@pytest.mark.parametrize("repeat", Repeatability)
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", FaultKind)
def test_faults_are_repeated_by_kind_phase_and_class(kind, phase, repeat):
    talk = Talk([fault(kind, phase), reply(200)])
    if _repeatable(kind, phase, repeat):
        assert talk.run(call(repeat)).attempts == 2
        assert milliseconds(talk.sleeps) == [1250]
    else:
        with pytest.raises(errors.SandboxConnectionError):
            talk.run(call(repeat))
        assert len(talk.performed) == 1


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("repeat", Repeatability)
def test_a_stale_connection_is_replaced_at_once_and_counts_for_nothing(phase, repeat):
    stale = fault(FaultKind.DISCONNECTED, phase, stale=True)
    talk = Talk([stale, reply(200)])
    if _repeatable(FaultKind.DISCONNECTED, phase, repeat):
        talk.run(call(repeat, max_retries=0))
        assert talk.sleeps == [0.0]
    else:
        with pytest.raises(errors.SandboxConnectionError):
            talk.run(call(repeat, max_retries=0))


@pytest.mark.parametrize(
    ("make", "repeat"),
    [
        (lambda context: get_sandbox(context, "x"), SAFE),
        (lambda context: delete_sandbox(context, "x"), KEYED),
        (lambda context: write_file(context, "http://d", "/f", b"x", timeout=1), KEYED),
    ],
    ids=["get", "delete", "write"],
)
def test_calls_that_exist_may_all_be_repeated_after_gateway_trouble(make, repeat):
    assert repeat is not UNSAFE
    talk = Talk([reply(503), fault(FaultKind.DISCONNECTED, Phase.SENT), reply(200, {})])
    talk.run(make(make_context()))
    assert len(talk.performed) == 3
    first, *others = (each.request for each in talk.performed)
    assert all(other == first for other in others), "the request is repeated as it was"


# --- the end --------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_at_most_one_request_more_than_max_retries(retries):
    talk = Talk([reply(503)] * 10)
    assert talk.run(call(SAFE, max_retries=retries)).attempts == retries + 1
    assert len(talk.performed) == retries + 1
    assert len(talk.sleeps) == retries


def test_the_last_response_is_what_gets_mapped():
    answers = [refusal(503), refusal(429), refusal(502), refusal(502, "ConnectionError", "last")]
    with pytest.raises(errors.SandboxConnectionError, match=r"^last$") as caught:
        Talk(answers).run(get_sandbox(make_context(), "x"))
    assert (caught.value.context.attempts, caught.value.status) == (4, 502)


def test_the_last_fault_is_what_gets_told_with_the_number_of_attempts():
    answers = [reply(503), fault(FaultKind.UNREACHABLE), fault(FaultKind.CONNECT_TIMEOUT)]
    with pytest.raises(errors.SandboxTimeoutError) as caught:
        Talk(answers).run(call(SAFE, max_retries=2))
    assert str(caught.value) == "POST http://host.test/path: connect timeout (3 attempts)"
    assert caught.value.context.attempts == 3


def test_the_wait_counts_from_the_arrival_of_the_answer():
    talk = Talk([reply(503), reply(200)], now=50.0, latency=7.0)
    done = talk.run(call(SAFE, chance=0.0))
    assert talk.sleeps == [1.0]
    assert done.now == 50.0 + 7.0 + 1.0 + 7.0


def test_a_delete_whose_answer_was_lost_takes_not_found_for_done():
    lost = fault(FaultKind.DISCONNECTED, Phase.SENT)
    Talk([lost, refusal(404)]).run(delete_sandbox(make_context(), "x"))


def test_a_delete_whose_first_answer_is_not_found_deleted_nothing():
    with pytest.raises(errors.ResourceNotFoundError):
        Talk([refusal(404)]).run(delete_sandbox(make_context(), "x"))


@pytest.mark.parametrize(
    ("seconds", "read", "expected"),
    [
        (10.0, None, Timeouts(connect=10, read=10, write=10, pool=10, total=30)),
        (10.0, 2.0, Timeouts(connect=10, read=2, write=10, pool=10, total=14)),
    ],
)
def test_one_number_is_the_patience_of_each_phase(seconds, read, expected):
    assert Timeouts.uniform(seconds, read=read) == expected
