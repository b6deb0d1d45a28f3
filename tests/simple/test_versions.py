from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.names import may_belong, project_name
from mirror.simple.versions import all_versions, file_version

LEGACY = [
    ("zope.interface-3.0-beta.zip", "zope-interface", "3.0b0"),
    ("zope.interface-3.0-beta-1.tar.gz", "zope-interface", "3.0b1"),
    ("Foo_Bar-1.0.win32-py2.7.exe", "foo-bar", "1.0"),
    ("foo-bar-1.0-1.noarch.rpm", "foo-bar", "1.0"),
    ("foo-1.0-1.src.rpm", "foo", "1.0"),
    ("foo-1.0-py2.7.egg", "foo", "1.0"),
    ("foo-1.0-py2.7-linux-x86_64.egg", "foo", "1.0"),
    ("foo-1.0.linux-x86_64.tar.gz", "foo", "1.0"),
    ("foo-1.0.macosx-10.9-x86_64.tar.gz", "foo", "1.0"),
    ("foo-1.0.win-amd64-py3.6.msi", "foo", "1.0"),
    ("foo-1.0.tar.bz2", "foo", "1.0"),
    ("foo-1.0.tgz", "foo", "1.0"),
    ("a-b-c-d-e-f-1.0.tar.gz", "a-b-c-d-e-f", "1.0"),
    ("pytz-2004b.tar.gz", "pytz", "2004b0"),
    ("torch-2.0.1+cpu-cp311-cp311-linux_x86_64.whl", "torch", "2.0.1+cpu"),
    ("foo_bar-1.0-1-py3-none-any.whl", "foo-bar", "1.0"),
    ("foo.bar-1!2.0-py3-none-any.whl", "foo-bar", "1!2.0"),
    ("2to3-1.0.tar.gz", "2to3", "1.0"),
    ("foo-unknown.zip", "foo", None),
]


@pytest.mark.parametrize(("filename", "project", "version"), LEGACY)
def test_real_looking_names(filename: str, project: str, version: str | None) -> None:
    name = project_name(project)
    assert may_belong(filename, name)
    assert file_version(filename, name) == version


@pytest.mark.parametrize(
    ("filename", "project"),
    [
        ("bar-1.0.tar.gz", "foo"),
        ("foobar-1.0.tar.gz", "foo"),
        ("foo_bar-1.0.tar.gz", "foo"),
        ("foo_bar-1.0-py3-none-any.whl", "foo"),
        ("foo-bar-1.0-py3-none-any.whl", "foo-bar"),
        ("foo.tar.gz", "foo"),
        ("\u212a8s-1.0.tar.gz", "k8s"),
    ],
)
def test_u24_names_of_other_projects(filename: str, project: str) -> None:
    assert not may_belong(filename, project_name(project))
    assert file_version(filename, project_name(project)) is None


def test_c041_every_version_once_and_in_order() -> None:
    foo = project_name("foo")
    files = ["foo-1.10.tar.gz", "foo-1.9-py3-none-any.whl", "foo-1.9.tar.gz", "foo-1.9.0.zip", "foo-x.zip"]
    assert all_versions(["2.0", "1.9.0", "2.0", "2.0.0", "odd one"], files, foo) == ("odd one", "1.9.0", "1.10", "2.0")
    assert all_versions([], [], foo) == ()


def test_a_version_that_is_a_number_of_thousands_of_digits() -> None:
    long = "9" * 5000
    assert all_versions([long, "1.0"], [], project_name("click")) == (long, "1.0")


pieces = st.sampled_from(
    [*"0179.-+_", ".", "1.0", "a", "rc", ".dev", ".post", "linux", ".linux-", "win32", "-py3", "_all", "-1.noarch"]
)
rests = st.builds(
    lambda inner, end: inner + end,
    st.lists(pieces, max_size=6).map("".join),
    st.sampled_from([".tar.gz", ".zip", ".egg", ".exe", ".tar.gz.zip", ".whl", "-py3-none-any.whl", ""]),
)


@given(st.lists(st.tuples(st.sampled_from(["foo-bar-", "Foo_Bar-", "foo.bar-"]), rests).map("".join), max_size=4))
def test_the_versions_of_many_files_are_those_of_each(filenames: list[str]) -> None:
    project = project_name("foo-bar")
    filenames = [name for name in filenames if may_belong(name, project) and name.count("-") > name.endswith(".whl")]
    each = {version for name in filenames if (version := file_version(name, project)) is not None}
    assert set(all_versions([], filenames, project)) == each
