"""A real browser opens the URLs that are made for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sandbox_anyio import AsyncSandboxClient, AsyncServiceURL

from ._chromium import PROGRAM, open_tab
from ._serving import serving

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here: apt install chromium"),
]


@pytest.mark.parametrize("entrance", ["browser_url", "embed_url"])
async def test_the_page_opens_and_what_it_asks_for_carries_no_token(
    client: AsyncSandboxClient, tmp_path: Path, entrance: str
) -> None:
    async with (
        client.sandbox() as sandbox,
        serving(sandbox),
        open_tab(tmp_path / "profile") as tab,
    ):
        service = await sandbox.service(8000)
        assert isinstance(service, AsyncServiceURL)
        entry = getattr(service, entrance) + "&redirect=/page?seen=1"
        await tab.open(entry, arriving_at="/page?seen=1")
        told = await tab.evaluate("window.told")
        await tab.picture(tmp_path / "page.png")
        shown = await tab.evaluate("document.querySelector('h1').innerText")
        cookies = (await tab.call("Network.getCookies"))["cookies"]
    assert shown == "a page from a sandbox"
    assert re.fullmatch(r"http://[^/]+\.localhost:\d+/page\?seen=1", told["href"])
    assert told["asked"]["target"] == "/asked?by=script"
    assert told["echoed"] == "hello"

    [ours] = [cookie for cookie in cookies if cookie["name"] == "sandbox_service"]
    assert ours["httpOnly"]
    assert told["cookie"] == "a=1; b=2", "scripts see the service's own cookies only"
    sent = dict(told["asked"]["headers"]).get("cookie", "")
    assert "sandbox_service" not in sent, "nor does the service see ours"
    urls = [request["url"].partition("#")[0] for request in tab.requests()]
    asked = urls[urls.index(told["href"]) :]
    assert any(url.endswith("/asked?by=script") for url in asked)
    assert not [url for url in asked if service.token in url]
    if entrance == "embed_url":
        assert not [url for url in urls if service.token in url], "no URL ever held it"


async def test_a_link_that_does_not_hold_says_so(
    client: AsyncSandboxClient, tmp_path: Path
) -> None:
    async with client.sandbox() as sandbox, open_tab(tmp_path / "profile") as tab:
        service = await sandbox.service(8000)
        broken = service.embed_url.replace("#token=", "#token=x")
        await tab.open(broken, arriving_at="/_svc/auth")
        said = await tab.evaluate("opening.then(() => document.body.innerText)")
    assert "this link has expired or was taken back" in said
