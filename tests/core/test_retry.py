"""When a request is made again, and after how long (protocol/04 section 1)."""

from __future__ import annotations

import pytest

from sandbox_proto import errors
from sandbox_proto.faults import Fault, FaultKind, Phase
from sandbox_proto.flows.effects import Perform, perform
from sandbox_proto.flows.files import write_file
from sandbox_proto.flows.sandboxes import delete_sandbox, get_sandbox
from sandbox_proto.plans.retry import Repeatability, RetryPolicy, retry_delay
from sandbox_proto.plans.timeouts import Timeouts

from ._flows import CALLS, KEYED, LOST, REFUSED, SAFE, UNSAFE, Story
from ._helpers import FixedRandom, Talk, fault, make_context, make_request, refusal, reply

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


MIDNIGHT = "Thu, 01 Jan 2026 00:00:00 GMT"


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize(
    ("retry_after", "date", "wait"),
    [
        ("0.5", MIDNIGHT, 1250),
        ("1.5", MIDNIGHT, 1500),
        ("inf", MIDNIGHT, 1250),
        ("120", MIDNIGHT, 120_000),
        ("120.001", MIDNIGHT, 120_000),
        ("99999999999", MIDNIGHT, 120_000),
        ("Thu, 01 Jan 2026 00:00:30 GMT", MIDNIGHT, 30_000),
        ("Thu, 01 Jan 2026 00:00:01 GMT", MIDNIGHT, 1250),
        ("Wed, 31 Dec 2025 23:59:59 GMT", MIDNIGHT, 1250),
        ("Fri, 01 Jan 2027 00:00:00 GMT", MIDNIGHT, 120_000),
        ("Thu, 01 Jan 2026 00:00:30 GMT", None, 1250),
        ("Thu, 01 Jan 2026 00:00:30 GMT", "today", 1250),
        ("Thursday", MIDNIGHT, 1250),
    ],
)
def test_gateway_trouble_may_ask_for_a_wait_in_any_spelling(status, retry_after, date, wait):
    headers = {"retry_after": retry_after} | ({} if date is None else {"date": date})
    talk = Talk([refusal(status, **headers), reply(200)])
    talk.run(call(SAFE))
    assert milliseconds(talk.sleeps) == [wait]


@pytest.mark.parametrize(
    "date",
    [f"Thu, 01 Jan {'9' * 20} 00:00:00 GMT", f"Thu, 01 Jan 2026 {'9' * 20}:00:00 GMT"],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_date_beyond_all_bounds_is_not_to_be_understood(status, date):
    for headers in ({"retry_after": date, "date": MIDNIGHT}, {"retry_after": "x", "date": date}):
        talk = Talk([refusal(status, **headers), reply(200)])
        talk.run(call(SAFE))
        assert milliseconds(talk.sleeps) == [1250]


@pytest.mark.parametrize("repeat", Repeatability)
@pytest.mark.parametrize(
    "kind", [FaultKind.UNREACHABLE, FaultKind.CONNECT_TIMEOUT, FaultKind.POOL_TIMEOUT]
)
@pytest.mark.parametrize(
    ("chance", "waits"),
    [
        (0.0, [1000, 2000, 4000, 8000, 10000]),
        (0.25, [1250, 2250, 4250, 8250, 10000]),
        (0.999, [1999, 2999, 4999, 8999, 10000]),
    ],
)
def test_refused_connections_wait_the_same_backoff_whatever_the_request(
    repeat, kind, chance, waits
):
    talk = Talk([fault(kind)] * 5 + [reply(200)])
    assert talk.run(call(repeat, chance=chance, max_retries=5)).attempts == 6
    assert milliseconds(talk.sleeps) == waits


def test_kinds_of_trouble_share_one_count_and_one_backoff():
    answers = [REFUSED, refusal(429, retry_after="3"), LOST, reply(503), reply(200)]
    talk = Talk(answers)
    assert talk.run(call(SAFE, max_retries=4)).attempts == 5
    assert milliseconds(talk.sleeps) == [1250, 6250, 4250, 8250]


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        ({"initial": 0.1}, [350, 450, 650]),
        ({"initial": 0.0}, [250, 250, 250]),
        ({"jitter": 0.0}, [1000, 2000, 4000]),
        ({"jitter": 4.0}, [2000, 3000, 5000]),
        ({"max_backoff": 2.0}, [1250, 2000, 2000]),
        ({"max_backoff": 0.0}, [0, 0, 0]),
    ],
)
def test_the_schedule_is_the_policys(policy, waits):
    talk = Talk([reply(503), REFUSED, LOST, reply(200)])
    talk.run(call(SAFE, **policy))
    assert milliseconds(talk.sleeps) == waits


@pytest.mark.parametrize(
    ("cap", "waits"), [(0.0, [0, 0, 1250]), (3.0, [3000, 3000, 3000]), (7.0, [5250, 7000, 5000])]
)
def test_the_cap_of_what_a_server_may_ask_for_is_the_policys(cap, waits):
    answers = [refusal(429, retry_after="5"), refusal(429, retry_after="5")]
    talk = Talk([*answers, reply(200)])
    talk.run(call(SAFE, max_retry_after=cap))
    other = Talk([refusal(503, retry_after="5"), reply(200)])
    other.run(call(SAFE, max_retry_after=cap))
    assert milliseconds(talk.sleeps) + milliseconds(other.sleeps) == waits


# --- the limit of all attempts together -----------------------------------------------


@pytest.mark.parametrize(
    ("total", "latency", "waits"),
    [
        (None, 0.0, [1000, 2000, 4000]),
        (7.0, 0.0, [1000, 2000, 4000]),  # the last attempt begins just at the end
        (6.999, 0.0, [1000, 2000]),
        (3.0, 0.0, [1000, 2000]),
        (2.999, 0.0, [1000]),
        (1.0, 0.0, [1000]),
        (0.999, 0.0, []),
        (0.0, 0.0, []),
        # What the attempts take counts, too.
        (7.0, 0.5, [1000, 2000]),
        (8.5, 0.5, [1000, 2000, 4000]),
        (8.499, 0.5, [1000, 2000]),
        (4.0, 3.5, []),
    ],
)
@pytest.mark.parametrize("trouble", [reply(503), REFUSED, LOST], ids=["503", "refused", "lost"])
def test_no_attempt_begins_after_the_total(trouble, total, latency, waits):
    talk = Talk([trouble] * 4, latency=latency)
    flow = call(SAFE, chance=0.0, total=total)
    if isinstance(trouble, Fault):
        with pytest.raises(errors.SandboxConnectionError) as caught:
            talk.run(flow)
        attempts = caught.value.context.attempts
    else:
        attempts = talk.run(flow).attempts
    assert milliseconds(talk.sleeps) == waits
    assert attempts == len(talk.performed) == len(waits) + 1


@pytest.mark.parametrize(("total", "attempts"), [(4.9, 1), (5.0, 2)])
def test_a_wait_beyond_the_total_is_not_begun(total, attempts):
    talk = Talk([refusal(429, retry_after="5"), reply(200)])
    done = talk.run(call(SAFE, chance=0.0, total=total))
    assert (done.attempts, done.response.status) == (attempts, 200 if attempts == 2 else 429)


def test_a_flow_that_began_long_ago_counts_from_its_beginning_on_the_drivers_clock():
    talk = Talk([reply(503)] * 2, now=5000.0)
    context = make_context(now=5000.0, chance=0.0, retry=RetryPolicy(total=1.5))
    done = talk.run(perform(context, Perform(make_request(), TIMEOUTS), SAFE))
    assert (done.attempts, milliseconds(talk.sleeps)) == (2, [1000])


def test_every_poll_has_a_total_of_its_own():
    asked = "GET /boxes/box/status"
    waiting = [(asked, reply(200, {"status": "provisioning"}))] * 30
    ready = [(asked, reply(200, {"status": "ready"})), ("GET /boxes/box", reply(200, {}))]
    story = Story(*waiting, (asked, refusal(503)), *ready, retry=RetryPolicy(total=20))
    story.run(CALLS["wait"].flow, "box", timeout=60, poll_interval=1.0)
    assert story.waits == [1000] * 30 + [1500]


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


def test_a_stale_connection_takes_no_part_in_the_schedule():
    stale = fault(FaultKind.DISCONNECTED, Phase.SENT, stale=True)
    talk = Talk([stale, *[reply(503)] * 4])
    talk.run(call(SAFE))
    assert milliseconds(talk.sleeps) == [0, 1250, 2250, 4250]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("lost", [LOST, reply(504)], ids=["cut", "504"])
def test_which_calls_are_repeated_when_nobody_knows_what_became_of_them(name, lost):
    one = CALLS[name]
    method = one.asked.split()[0]
    talk = Talk(lambda request: lost if request.method == method else reply(200, {}))
    with pytest.raises(errors.SandboxClientError) as caught:
        talk.run(one(make_context()))
    # What makes a snapshot asks first whether it did, which makes it repeatable.
    repeatable = one.repeat is not UNSAFE or name in ("build", "capture")
    assert caught.value.context.attempts == (4 if repeatable else 1)
    assert milliseconds(talk.sleeps) == ([1500, 2500, 4500] if repeatable else [])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("trouble", "waits"),
    [(REFUSED, [1500, 2500, 4500]), (refusal(429, retry_after="2"), [2500, 4500, 8500])],
    ids=["refused", "429"],
)
def test_every_call_is_repeated_after_what_proves_that_nothing_was_done(name, trouble, waits):
    talk = Talk([trouble] * 4)
    with pytest.raises(errors.SandboxClientError) as caught:
        talk.run(CALLS[name](make_context()))
    assert caught.value.context.attempts == 4
    assert milliseconds(talk.sleeps) == waits
    first, *others = (each.request for each in talk.performed)
    assert len(others) == 3
    assert all(other == first for other in others)


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


@pytest.mark.parametrize("phase", ["connect", "read", "write", "pool", "total"])
@pytest.mark.parametrize("seconds", [0, -1, -0.001, float("nan"), True, "5", "", b"5"])
def test_what_is_no_number_of_seconds_above_0_is_refused_and_named(phase, seconds):
    with pytest.raises(ValueError, match=f"^{phase} must be a number of seconds above 0 or None"):
        Timeouts(**{phase: seconds})


@pytest.mark.parametrize("phase", ["connect", "read", "write", "pool", "total"])
@pytest.mark.parametrize("seconds", [None, 1, 0.001, 10**9])
def test_patience_may_be_any_number_above_0_or_without_limit(phase, seconds):
    fields = {"connect": 10.0, "read": 10.0, "write": 10.0, "pool": 10.0, "total": None}
    timeouts = Timeouts(**{phase: seconds})
    assert {name: getattr(timeouts, name) for name in fields} == {**fields, phase: seconds}


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
@pytest.mark.parametrize("make", [Timeouts.uniform, Timeouts.of])
def test_one_number_is_checked_just_so(make, seconds):
    with pytest.raises(ValueError, match="seconds above 0"):
        make(seconds)


def test_patience_of_a_number_or_in_detail():
    detailed = Timeouts(connect=1, read=None)
    assert Timeouts.of(detailed) is detailed
    assert Timeouts.of(2.5) == Timeouts(connect=2.5, read=2.5, write=2.5, pool=2.5, total=7.5)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("timeout", "expected"),
    [(3, Timeouts.uniform(3)), (Timeouts(read=None), Timeouts(read=None))],
    ids=["number", "detail"],
)
def test_every_call_has_the_patience_of_its_client(name, timeout, expected):
    story = Story((CALLS[name].asked, refusal(418)), timeout=timeout)
    story.fail(errors.SandboxClientError, CALLS[name].flow, *CALLS[name].args, **CALLS[name].more)
    assert story.timeouts == [expected]


@pytest.mark.parametrize("phase", ["max_retries", "initial", "jitter", "max_backoff"])
def test_a_policy_may_be_of_zeros(phase):
    assert getattr(RetryPolicy(**{phase: 0}), phase) == 0
