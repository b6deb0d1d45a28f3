from __future__ import annotations

import pytest

from mirror.cli.hints import base_url, client_lines


@pytest.mark.parametrize(
    ("addresses", "public_url", "wanted"),
    [
        (["127.0.0.1:8080"], None, "http://127.0.0.1:8080/"),
        (["unix:/run/m.sock", "[::1]:80"], None, "http://[::1]:80/"),
        (["0.0.0.0:8080"], None, "http://127.0.0.1:8080/"),
        ([":8080"], None, "http://127.0.0.1:8080/"),
        (["[::]:8080"], None, "http://[::1]:8080/"),
        (["build.example.com:80"], None, "http://build.example.com:80/"),
        (["unix:/run/m.sock"], None, None),
        ([], None, None),
        (["127.0.0.1:8080"], "https://packages.example.com/x/", "https://packages.example.com/x/"),
        (["unix:/run/m.sock"], "https://packages.example.com/", "https://packages.example.com/"),
    ],
)
def test_the_url_is_one_that_a_client_can_use(addresses: list[str], public_url: str | None, wanted: str | None) -> None:
    assert base_url(addresses, public_url) == wanted


def test_the_lines_for_every_client() -> None:
    url = "http://127.0.0.1:8080/simple/"
    assert client_lines("http://127.0.0.1:8080/").splitlines() == [
        "Point your client at it:",
        f"  pip     pip install --index-url {url} PACKAGE",
        f"          export PIP_INDEX_URL={url}",
        f"  uv      uv pip install --default-index {url} PACKAGE",
        f"          export UV_DEFAULT_INDEX={url}",
        f"  Poetry  poetry source add --priority=primary mirror {url}",
        f"  PDM     pdm config pypi.url {url}",
        f"          export PDM_PYPI_URL={url}",
    ]


@pytest.mark.parametrize(
    "base", ["http://[::1]:80/", "http://localhost/", "http://a.localhost/", "https://packages.example.com/"]
)
def test_hosts_that_pip_trusts_by_itself(base: str) -> None:
    assert "trusted" not in client_lines(base).lower()


@pytest.mark.parametrize(
    ("base", "host"),
    [
        ("http://packages.example.com:8080/", "packages.example.com"),
        ("http://10.0.0.1/", "10.0.0.1"),
        ("http://[fd00::1]:80/", "'[fd00::1]'"),
    ],
)
def test_pip_is_told_to_trust_plain_http(base: str, host: str) -> None:
    lines = client_lines(base)
    assert f" --trusted-host {host} PACKAGE\n" in lines
    assert f" PIP_TRUSTED_HOST={host}\n" in lines


def test_urls_are_quoted_for_the_shell() -> None:
    assert "'https://h/$(reboot)/simple/'" in client_lines("https://h/$(reboot)/")
