from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import InvalidName
from mirror.names import file_path
from mirror.simple.links import Links, SourcePaths
from tests.simple.samples import DEFAULT, HOST, INDEX, OTHER

NAME = "foo-1.0.tar.gz"


def paths(link: str, source: SourcePaths = DEFAULT, page: str = INDEX, base: str | None = None) -> str | None:
    located = Links(source, page, base).locate(link)
    return None if located is None else located[1]


@pytest.mark.parametrize(
    ("link", "path"),
    [
        (f"{HOST}/packages/ab/cd/ef/{NAME}", f"packages/ab/cd/ef/{NAME}"),
        (f"{HOST}/packages/{NAME}", f"packages/{NAME}"),
        (f"{HOST}/other/packages/{NAME}", f"files/pypi/other/packages/{NAME}"),
        (f"{HOST}/{NAME}", f"files/pypi/{NAME}"),
        (f"{HOST}/root/+f/{NAME}", f"files/pypi/root/+f/{NAME}"),
        (f"//cdn.example.com/packages/{NAME}", f"packages/{NAME}"),
        (f"/packages/{NAME}", f"packages/{NAME}"),
        (f"../../packages/a/{NAME}", f"packages/a/{NAME}"),
        (f"../../../../packages/a/{NAME}", f"packages/a/{NAME}"),
        (f"./{NAME}", f"files/pypi/simple/click/{NAME}"),
        (NAME, f"files/pypi/simple/click/{NAME}"),
        (f"{HOST}/packages/.hidden/{NAME}", f"packages/.hidden/{NAME}"),
        (f"HTTPS://FILES.example.com/packages/{NAME}", f"packages/{NAME}"),
    ],
)
def test_c036_public_path(link: str, path: str | None) -> None:
    assert paths(link) == path


def test_c036_other_upstreams_lie_below_their_name() -> None:
    assert paths(f"{HOST}/packages/ab/{NAME}", OTHER) == f"files/internal/packages/ab/{NAME}"
    assert OTHER.public_path(f"{HOST}/x/{NAME}?token=1#sha256=2") == f"files/internal/x/{NAME}"


@pytest.mark.parametrize("name", ["torch-2.0+cpu.zip", "torch-2.0%2Bcpu.zip", "torch-2.0%2bcpu.zip"])
def test_c034_plus_is_decoded_once(name: str) -> None:
    assert paths(f"{HOST}/packages/whl/{name}") == "packages/whl/torch-2.0+cpu.zip"


def test_c033_query_stays_in_the_url_alone() -> None:
    located = Links(DEFAULT, INDEX).locate(f"{HOST}/packages/{NAME}?X-Sig=a%2Fb&t=1#sha256=0")
    assert located == (f"{HOST}/packages/{NAME}?X-Sig=a%2Fb&t=1", f"packages/{NAME}", NAME)


@pytest.mark.parametrize(
    "link",
    [
        f"{HOST}/packages/%2e%2e/{NAME}",
        f"{HOST}/packages/../{NAME}",
        f"{HOST}/packages/a%2Fb/{NAME}",
        f"{HOST}/packages/a%5Cb/{NAME}",
        f"{HOST}/packages/a%00b/{NAME}",
        f"{HOST}/packages/a%252Fb/{NAME}",
        f"{HOST}/packages/a%0d%0ab/{NAME}",
        f"{HOST}/packages/a\r\nb/{NAME}",
        f"{HOST}/packages/a\tb/{NAME}",
        f"{HOST}/packages/%ff/{NAME}",
        f"{HOST}/packages//{NAME}",
        f"{HOST}/packages/a b/{NAME}",
        f"{HOST}/packages/a;b/{NAME}",
        f"{HOST}/packages/a\\b/{NAME}",
        f"{HOST}/packages/ä/{NAME}",
        f"{HOST}/packages/{'a' * 1100}/{NAME}",
        f"{HOST}/packages/",
        HOST,
        f"https://user:secret@files.example.com/packages/{NAME}",
        f"//user@files.example.com/packages/{NAME}",
        f"https://files.example.com:99999/packages/{NAME}",
        f"https://[::1/packages/{NAME}",
        f"https:///packages/{NAME}",
        f"http://files.example.com/packages/{NAME}",
        f"https:{NAME}",
        f"https:/packages/{NAME}",
        f"ftp://files.example.com/packages/{NAME}",
        f"file:///packages/{NAME}",
        f"javascript:alert(1)//{NAME}",
        f"data:text/html,{NAME}",
        "..",
        "",
    ],
)
def test_u24_hostile_links_lead_nowhere(link: str) -> None:
    assert paths(link) is None


def test_u15_http_only_from_a_page_that_came_by_http() -> None:
    link = f"http://files.example.com/packages/{NAME}"
    assert paths(link) is None
    assert paths(link, page="http://index.example.com/simple/foo/") == f"packages/{NAME}"


def test_base_href() -> None:
    assert paths(NAME, base=f"{HOST}/packages/x/") == f"packages/x/{NAME}"
    assert paths(NAME, base="/packages/y/") == f"packages/y/{NAME}"
    assert paths(NAME, base="javascript:alert(1)") is None
    assert paths(NAME, base="http://index.example.com/") is None
    assert paths(NAME, base="https://user@index.example.com/") is None


def test_credentials_of_the_index_are_not_inherited() -> None:
    located = Links(DEFAULT, "https://user:secret@index.example.com/simple/foo/").locate(f"../../packages/{NAME}")
    assert located is not None
    assert located[0] == f"https://index.example.com/packages/{NAME}"


def test_public_path_of_what_is_no_file_url() -> None:
    with pytest.raises(InvalidName):
        DEFAULT.public_path("/relative/foo-1.0.zip")


@given(st.lists(st.sampled_from([*"/.%+?#:@\\a ~", "..", "%2f", "%2e", "packages", "https:", "//", NAME, "\r\n", "é"])))
def test_u24_a_public_path_is_always_safe(parts: list[str]) -> None:
    for link in ("".join(parts), f"{HOST}/" + "".join(parts)):
        located = Links(DEFAULT, INDEX).locate(link)
        if located is not None:
            url, path, filename = located
            assert file_path(path) == path
            assert path.endswith("/" + filename)
            assert url.startswith("https://")
            assert "#" not in url
            assert DEFAULT.public_path(url) == path
