"""Services, download links, registries and pages of the pure host (protocol/10, 02 §13-17)."""

from __future__ import annotations

import pytest

from sandbox_proto.host.tokens import read_token, sign_token

from ._host import BOXES, House, refusal_of

REGISTRIES = "/api/v2/sandboxes/registries"


def housed() -> tuple[House, str]:
    house = House()
    return house, house.create(name="box")["id"]


def mint(house: House, **body: object):
    return house.ask("POST", f"{BOXES}/box/service-url", {"port": 3000, **body})


# --- tokens ---------------------------------------------------------------------------


def test_a_token_is_genuine_or_nothing():
    token = sign_token(b"secret", {"a": 1})
    assert read_token(b"secret", token) == {"a": 1}
    assert read_token(b"other", token) is None
    for broken in ("", "x", token[:-1], token[1:], "A" + token[1:], token + "A", "é"):
        assert read_token(b"secret", broken) is None


# --- services -------------------------------------------------------------------------


def test_a_service_url_carries_a_token_for_one_port_of_one_sandbox_for_a_while():
    house, box_id = housed()
    answer = mint(house, expires_in_seconds=60, embed_origins=["https://a.example"]).payload
    label = f"{box_id}--3000"
    assert answer["service_url"] == f"http://host.test/svc/{label}/"
    assert answer["browser_url"].startswith(f"http://{label}.localhost/_svc/auth?token=")
    assert "#token=" in answer["embed_url"]
    assert answer["expires_at"] == "2026-01-01T00:01:00Z"
    access = house.host.check_service(label, answer["token"], now=house.now + 59)
    assert (access.box.id, access.port, access.user) == (box_id, 3000, None)
    assert access.embed_origins == ("https://a.example",)
    late = refusal_of(lambda: house.host.check_service(label, answer["token"], now=61.0))
    assert late.status == 401 and "expired" in late.message


def test_the_browsers_address_keeps_the_hosts_port():
    house, box_id = housed()
    house.host.boxes[box_id].name = "box"
    from sandbox_proto.host.messages import HostRequest

    request = HostRequest(
        "POST",
        f"{BOXES}/box/service-url",
        headers={"x-api-key": "host-key"},
        body=b'{"port": 80}',
        origin="http://127.0.0.1:4567",
    )
    answer = house.run(house.host.respond(request, now=0.0)).payload
    assert answer["browser_url"].startswith(f"http://{box_id}--80.localhost:4567/_svc/auth")


def test_nothing_lives_shorter_than_was_asked_for():
    house, box_id = housed()
    house.now = 0.95
    service, download = mint(house, expires_in_seconds=1), link(house, expires_in_seconds=1)
    assert house.host.check_service(f"{box_id}--3000", service.payload["token"], now=1.94)
    assert house.host.check_download(download.payload["token"], now=1.94)


@pytest.mark.parametrize("label", ["nobody--3000", "{box}--3001", "{box}", "{box}--0", "{box}--x"])
def test_a_token_opens_nothing_else(label):
    house, box_id = housed()
    token = mint(house).payload["token"]
    wrong = label.format(box=box_id)
    assert refusal_of(lambda: house.host.check_service(wrong, token, now=0.0)).status in (401, 404)


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c"])
def test_no_token_no_service(token):
    house, box_id = housed()
    label = f"{box_id}--3000"
    assert refusal_of(lambda: house.host.check_service(label, token, now=0.0)).status == 401


def test_a_token_of_a_deleted_sandbox_opens_nothing():
    house, box_id = housed()
    token = mint(house).payload["token"]
    house.ask("DELETE", f"{BOXES}/box")
    label = f"{box_id}--3000"
    assert refusal_of(lambda: house.host.check_service(label, token, now=0.0)).status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"port": 0},
        {"port": 65536},
        {"port": "80"},
        {"port": True},
        {"expires_in_seconds": 0},
        {"expires_in_seconds": 86_401},
        {"expires_in_seconds": True},
        {"access": "everybody"},
        {"embed_origins": ["http://far.example"]},
        {"embed_origins": ["https://a.example/path"]},
        {"embed_origins": "https://a.example"},
        {"embed_origins": [f"https://{n}.example" for n in range(6)]},
    ],
)
def test_what_cannot_be_minted(body):
    house, _ = housed()
    assert mint(house, **body).status == 422


def test_a_login_grant_stands_until_it_is_taken_back():
    house, box_id = housed()
    token = mint(house).payload["token"]
    login = mint(house, access="workspace", embed_origins=["https://a.example"]).payload
    assert login["access"] == "workspace" and "token" not in login
    label = f"{box_id}--3000"
    assert refusal_of(lambda: house.host.check_service(label, token, now=0.0)).status == 401
    browser_token = login["browser_url"].partition("token=")[2]
    access = house.host.check_service(label, browser_token, now=10**9)
    assert access.user is not None
    assert mint(house).status == 409
    [entry] = house.ask("GET", f"{BOXES}/box/service-urls").payload["items"]
    assert (entry["port"], entry["access"]) == (3000, "workspace")
    assert house.ask("DELETE", f"{BOXES}/box/service-urls", query="port=3001").status == 204
    assert house.ask("DELETE", f"{BOXES}/box/service-urls", query="port=3000").status == 204
    error = refusal_of(lambda: house.host.check_service(label, browser_token, now=0.0))
    assert error.status == 401 and "taken back" in error.message


def test_off_takes_the_grant_back_and_mints_a_token():
    house, _ = housed()
    mint(house, access="restricted")
    assert "token" in mint(house, access="off").payload
    assert [entry["access"] for entry in service_entries(house)] == ["token"]


def service_entries(house: House, query: str = "") -> list[dict[str, object]]:
    return house.ask("GET", f"{BOXES}/box/service-urls", query=query).payload["items"]


def test_ports_with_tokens_are_listed_until_the_last_token_ends():
    house, _ = housed()
    mint(house, expires_in_seconds=100)
    mint(house, expires_in_seconds=10, embed_origins=["https://a.example"])
    mint(house, port=22, access="restricted")
    first, second = service_entries(house)
    assert (first["port"], first["access"], "expires_at" in first) == (22, "restricted", False)
    assert (second["port"], second["access"]) == (3000, "token")
    assert second["expires_at"] == "2026-01-01T00:01:40Z"
    page = house.ask("GET", f"{BOXES}/box/service-urls", query="page_size=1").payload
    assert [entry["port"] for entry in page["items"]] == [22]
    following = service_entries(house, f"page_size=1&cursor={page['next_cursor']}")
    assert [entry["port"] for entry in following] == [3000]
    house.now = 100.0
    assert [entry["port"] for entry in service_entries(house)] == [22]


def test_deleting_an_entry_leaves_its_tokens_valid():
    house, box_id = housed()
    token = mint(house).payload["token"]
    assert house.ask("DELETE", f"{BOXES}/box/service-urls").status == 204
    assert service_entries(house) == []
    assert house.host.check_service(f"{box_id}--3000", token, now=0.0).token == token


# --- download links -------------------------------------------------------------------


def link(house: House, **body: object):
    return house.ask("POST", f"{BOXES}/box/download-url", {"path": "/a b", **body})


def test_a_download_link_is_pinned_to_its_file_and_its_headers():
    house, box_id = housed()
    answer = link(
        house,
        expires_in_seconds=60,
        content_type="text/plain",
        content_disposition="attachment",
        csp_sandbox_flags=["allow-scripts"],
    ).payload
    assert answer["download_url"] == f"http://host.test/dl/{answer['token']}"
    grant = house.host.check_download(answer["token"], now=59.0)
    assert (grant.box_id, grant.path) == (box_id, "/a b")
    assert (grant.content_type, grant.disposition) == ("text/plain", "attachment")
    assert grant.policy is not None and grant.policy.startswith("sandbox allow-scripts;")
    late = refusal_of(lambda: house.host.check_download(answer["token"], now=61.0))
    assert late.status == 403


def test_a_link_without_an_end_has_none():
    house, _ = housed()
    answer = link(house, csp_sandbox=False).payload
    assert answer["expires_at"] is None
    assert house.host.check_download(answer["token"], now=10**9).policy is None


def test_a_service_token_is_no_download_link():
    house, _ = housed()
    token = mint(house).payload["token"]
    for wrong in (token, "x", ""):
        error = refusal_of(lambda wrong=wrong: house.host.check_download(wrong, now=0.0))
        assert error.status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"path": ""},
        {"path": None},
        {"expires_in_seconds": 0},
        {"content_type": "a\r\nb"},
        {"content_disposition": "sideways"},
        {"csp_sandbox_flags": ["allow-everything"]},
        {"csp_sandbox": False, "csp_sandbox_flags": ["allow-scripts"]},
    ],
)
def test_links_that_cannot_be_made(body):
    house, _ = housed()
    assert link(house, **body).status == 422


# --- registries -----------------------------------------------------------------------


def test_registries_are_kept_and_never_tell_their_password():
    house = House()
    body = {"name": "r", "url": "https://ghcr.io", "username": "u", "password": "p"}
    made = house.ask("POST", REGISTRIES, body)
    assert made.status == 201
    assert made.payload["provider"] == "GHCR"
    assert not {"password", "username"} & set(made.payload)
    assert house.ask("POST", REGISTRIES, body).status == 409
    assert house.ask("GET", f"{REGISTRIES}/r").payload == made.payload
    changed = house.ask("PATCH", f"{REGISTRIES}/r", {"name": "s"}).payload
    assert (changed["name"], changed["id"]) == ("s", made.payload["id"])
    assert house.host.registries["s"]["password"] == "p"
    assert house.ask("GET", f"{REGISTRIES}/r").status == 404
    listed = house.ask("GET", REGISTRIES).payload
    assert listed["items"] == listed["registries"] == [changed]
    assert house.ask("DELETE", f"{REGISTRIES}/s").status == 204
    assert house.ask("GET", REGISTRIES).payload["items"] == []


@pytest.mark.parametrize(
    "body",
    [{}, {"name": "r"}, {"name": "r", "url": 5}, {"name": "r", "url": "u", "auth_type": "X"}],
)
def test_registries_that_are_none(body):
    assert House().ask("POST", REGISTRIES, body).status == 422


# --- pages ----------------------------------------------------------------------------


def walk(house: House, query: str, between=lambda: None) -> list[str]:
    names, cursor = [], ""
    while True:
        payload = house.ask("GET", BOXES, query=query + cursor).payload
        names += [item["name"] for item in payload["items"]]
        if payload["next_cursor"] is None:
            return names
        cursor = f"&cursor={payload['next_cursor']}"
        between()


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", ["name", "created_at", "status", "idle_ttl_seconds"])
def test_pages_are_complete_and_in_order_while_others_come_and_go(sort, order):
    house = House()
    for number in range(30):
        house.create(name=f"box-{number:02}", idle_ttl_seconds=60 * (number % 3))
    comings = iter(range(100))

    def churn() -> None:
        number = next(comings)
        house.create(name=f"new-{number}")
        if number:
            house.ask("DELETE", f"{BOXES}/new-{number - 1}")

    names = walk(house, f"page_size=7&sort_by={sort}&sort_order={order}", churn)
    old = [name for name in names if name.startswith("box-")]
    assert sorted(old) == [f"box-{number:02}" for number in range(30)]
    assert len(names) == len(set(names))
    if sort in ("name", "created_at"):
        assert old == sorted(old, reverse=order == "desc")


def test_without_a_page_size_everything_comes_at_once():
    house = House()
    for number in range(120):
        house.create(name=f"box-{number}")
    payload = house.ask("GET", BOXES).payload
    assert (len(payload["items"]), payload["next_cursor"], payload["offset"]) == (120, None, 0)


@pytest.mark.parametrize("cursor", ["x", "e30=", "W10=", "WzEsMl0=", "WzEsIngiXQ=="])
def test_a_cursor_of_somebody_else_is_refused(cursor):
    house = House()
    house.create(name="box")
    assert house.ask("GET", BOXES, query=f"cursor={cursor}").status == 400


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("status=ready", ["b"]),
        ("status=stopped", ["a"]),
        ("label=env", ["b", "a"]),
        ("label=env%3Dtest", ["a"]),
        ("label=env&label=other", []),
        ("name_contains=b", ["b"]),
    ],
)
def test_filters(query, names):
    house = House()
    house.create(name="a", labels={"env": "test"})
    house.create(name="b", labels={"env": "prod"})
    house.ask("POST", f"{BOXES}/a/stop")
    items = house.ask("GET", BOXES, query=query).payload["items"]
    assert [item["name"] for item in items] == names


def test_usage_is_counted():
    house = House()
    house.create(name="a")
    house.create(name="b")
    house.ask("POST", f"{BOXES}/a/stop")
    usage = house.ask("GET", "/v2/sandboxes/usage").payload
    assert (usage["sandboxes_used"], usage["sandbox_running_count"]) == (2, 1)
    assert house.ask("GET", "/v2/sandboxes/usage/costs").payload["items"] == []
