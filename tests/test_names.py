"""Names: what is admitted, how it is normalised, and the traps in the libraries that do the same."""

from __future__ import annotations

import re

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import InvalidName as PackagingInvalidName
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from mirror.errors import InvalidName
from mirror.names import (
    MAX_FILENAME,
    MAX_PROJECT_NAME,
    ProjectName,
    archive_key,
    candidate_projects,
    file_name,
    file_path,
    page_key,
    project_list_key,
    project_name,
    shard,
    source_name,
)

KELVIN = "\u212a8s"
VALID_NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True).filter(str.isascii)


# --- traps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../foo-1.0.tar.gz", "a/b-1.0.tar.gz", "x\r\ny-1.0.tar.gz", "<script>-1.0.tar.gz"])
def test_trap_the_parser_of_sdist_names_admits_names_that_are_no_file_names(name: str) -> None:
    _, version = parse_sdist_filename(name)
    assert str(version) == "1.0"
    with pytest.raises(InvalidName):
        file_name(name)


def test_trap_the_parser_of_wheel_names_admits_a_quote() -> None:
    name = 'foo-1.0-py3-none-an"y.whl'
    assert parse_wheel_filename(name)[0] == "foo"
    with pytest.raises(InvalidName):
        file_name(name)


@pytest.mark.parametrize("name", [KELVIN, "\u0130stanbul", "\u0131stanbul", "\u017fet"])
def test_trap_ignorecase_without_ascii_admits_foreign_letters(name: str) -> None:
    pattern = r"([A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9])"
    assert re.fullmatch(pattern, name, re.IGNORECASE)
    assert not re.fullmatch(pattern, name, re.IGNORECASE | re.ASCII)


def test_trap_lower_folds_the_kelvin_sign_and_so_does_canonicalize_name() -> None:
    assert KELVIN.lower() == "k8s"
    assert canonicalize_name(KELVIN) == "k8s"
    with pytest.raises(PackagingInvalidName):
        canonicalize_name(KELVIN, validate=True)


def test_trap_a_dollar_admits_a_trailing_newline() -> None:
    assert re.match(r"^[a-z]+$", "alpha\n")
    assert not re.fullmatch(r"[a-z]+", "alpha\n")


# --- projects -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("requests", "requests"),
        ("Foo._Bar", "foo-bar"),
        ("a_-.b", "a-b"),
        ("A", "a"),
        ("0", "0"),
        ("zope.interface", "zope-interface"),
        ("x" * MAX_PROJECT_NAME, "x" * MAX_PROJECT_NAME),
    ],
)
def test_i4_spellings_of_one_project_are_one(raw: str, normal: str) -> None:
    assert project_name(raw) == normal


@pytest.mark.parametrize(
    "raw",
    [
        KELVIN,
        "\u0130stanbul",
        "\u0131stanbul",
        "\u017fet",
        "\uff0e\uff0e",
        "alpha\n",
        "\nalpha",
        "alpha\r\nX: y",
        "al\0pha",
        "",
        ".",
        "..",
        "-a",
        "a-",
        "_a",
        "a.",
        "a b",
        "a/b",
        "..\\a",
        "a%2fb",
        "a+b",
        "\ud800",
        "x" * (MAX_PROJECT_NAME + 1),
    ],
)
def test_i4_anything_else_is_no_project_name(raw: str) -> None:
    with pytest.raises(InvalidName) as caught:
        project_name(raw)
    assert caught.value.value == raw
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@given(VALID_NAMES)
def test_i4_normalising_agrees_with_packaging_and_is_idempotent(raw: str) -> None:
    normal = project_name(raw)
    assert str(normal) == canonicalize_name(raw, validate=True)
    assert project_name(normal) == normal
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", normal)


@given(VALID_NAMES, st.data())
def test_i4_case_and_runs_make_no_other_project(raw: str, data: st.DataObject) -> None:
    runs = st.text(alphabet="-_.", min_size=1, max_size=3)
    other = re.sub(r"[-_.]+", lambda _: data.draw(runs), raw).swapcase()
    assert project_name(other) == project_name(raw)


@given(st.text())
def test_i4_whatever_is_admitted_is_ascii_and_agrees_with_packaging(raw: str) -> None:
    try:
        normal = project_name(raw)
    except InvalidName:
        return
    assert raw.isascii()
    assert str(normal) == canonicalize_name(raw, validate=True)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "alpha-1.0-py3-none-any.whl",
        "torch-2.0+cpu-cp311-cp311-linux_x86_64.whl",
        "alpha-1!2.0.tar.gz",
        "0",
        "x" * MAX_FILENAME,
    ],
)
def test_file_names_that_are_admitted(name: str) -> None:
    assert file_name(name) == name
    assert len(f"{name}.provenance") <= 255


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".hidden",
        "..",
        "-rf",
        "a b",
        "a/b",
        "a\\b",
        "a\n",
        "a\0",
        "a%20b",
        'a"b',
        "a;b",
        "a:b",
        "a?b",
        "a#b",
        "\u212a",
        "x" * (MAX_FILENAME + 1),
    ],
)
def test_i4_file_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        file_name(name)


@pytest.mark.parametrize(
    "path", ["packages/ab/cd/0123/alpha-1.0.tar.gz", "alpha-1.0.tar.gz", "~x/@y/a=b,c/-z/.d/alpha-1.0.tar.gz"]
)
def test_file_paths_that_are_admitted(path: str) -> None:
    assert file_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/alpha-1.0.tar.gz",
        "a//alpha-1.0.tar.gz",
        "a/../alpha-1.0.tar.gz",
        "./alpha-1.0.tar.gz",
        "a/.../alpha-1.0.tar.gz",
        "a/alpha-1.0.tar.gz/",
        "a/..",
        "a%2f/alpha-1.0.tar.gz",
        "a\\b/alpha-1.0.tar.gz",
        "a\n/alpha-1.0.tar.gz",
        "a b/alpha-1.0.tar.gz",
        "\u212a/alpha-1.0.tar.gz",
        "a?b/alpha-1.0.tar.gz",
        "a/" * 600 + "alpha-1.0.tar.gz",
    ],
)
def test_file_paths_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidName):
        file_path(path)


@given(st.text())
def test_an_admitted_path_never_leaves_its_root(raw: str) -> None:
    try:
        path = file_path(raw)
    except InvalidName:
        return
    assert all(segment not in ("", ".", "..") for segment in path.split("/"))


@pytest.mark.parametrize("name", ["pypi", "a", "internal-2", "x" * 40])
def test_source_names_that_are_admitted(name: str) -> None:
    assert source_name(name) == name


@pytest.mark.parametrize("name", ["", "-", "a-", "-a", "PyPI", "a.b", "a_b", "a/b", "a\n", "x" * 41, "\u0131"])
def test_source_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        source_name(name)


# --- from file to project -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filename", "candidates"),
    [
        ("alpha-1.0-py3-none-any.whl", ["alpha"]),
        ("Foo_Bar-1.0-py3-none-any.whl", ["foo-bar"]),
        ("torch-2.0+cpu-cp311-cp311-linux_x86_64.whl", ["torch"]),
        ("alpha.whl", []),
        ("alpha-1.0.tar.gz", ["alpha"]),
        ("foo_bar-1.0.tar.gz", ["foo-bar"]),
        ("python-dateutil-2.8.2.tar.gz", ["python-dateutil", "python"]),
        ("foo-2-1.0.tar.gz", ["foo-2", "foo"]),
        ("alpha-1.0-1.tar.gz", ["alpha-1-0", "alpha"]),
        ("a-b-1-2.zip", ["a-b-1", "a-b", "a"]),
        ("a-b-c-d-e-1.0.tar.gz", ["a-b-c-d-e", "a-b-c-d", "a-b-c", "a-b"]),
        ("alpha-dev.tar.gz", ["alpha"]),
        ("-1.0.tar.gz", []),
        ("alpha.tar.gz", []),
        ("", []),
        (KELVIN + "-1.0.tar.gz", []),
    ],
)
def test_candidate_projects_likeliest_first(filename: str, candidates: list[str]) -> None:
    assert candidate_projects(filename) == candidates


@given(VALID_NAMES.filter(lambda name: name.count("-") < 3), st.integers(0, 99), st.integers(0, 99))
def test_the_owner_of_a_source_archive_is_the_first_candidate(name: str, major: int, minor: int) -> None:
    assert candidate_projects(f"{name}-{major}.{minor}.tar.gz")[0] == project_name(name)


@given(st.text())
def test_candidates_are_few_valid_and_different(filename: str) -> None:
    found = candidate_projects(filename)
    assert len(found) == len(set(found)) <= 4
    assert all(project_name(name) == name for name in found)


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "digest"),
    [("requests", "acf39e68edb7c227"), ("numpy", "7c6a658bb770ce1f"), ("boto3", "05295919330d35a5")],
)
def test_shards_never_change(name: str, digest: str) -> None:
    assert xxhash.xxh3_64_hexdigest(name.encode()) == digest
    assert shard(ProjectName(name)) == f"{digest[:2]}/{digest[2:4]}"


def test_keys_never_change() -> None:
    numpy = project_name("NumPy")
    assert archive_key("pypi", numpy, "numpy-2.0.tar.gz") == "files/pypi/7c/6a/numpy/numpy-2.0.tar.gz"
    assert archive_key("pypi", numpy, "n.whl", ".metadata") == "files/pypi/7c/6a/numpy/n.whl.metadata"
    assert page_key("pypi", numpy) == "meta/pypi/7c/6a/numpy.json"
    assert page_key("pypi", numpy, ".legacy") == "meta/pypi/7c/6a/numpy.legacy.json"
    assert project_list_key("pypi") == "meta/pypi/projects.txt"


@given(VALID_NAMES, VALID_NAMES)
def test_different_projects_have_different_keys(one: str, other: str) -> None:
    first, second = project_name(one), project_name(other)
    assert (page_key("pypi", first) == page_key("pypi", second)) == (first == second)
    assert page_key("pypi", first, ".legacy") != page_key("pypi", second)
