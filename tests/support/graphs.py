"""Ready-made sets of projects for a scripted upstream."""

from __future__ import annotations

import hashlib
import random
from functools import cache

from tests.support.packages import Listing, Project, normal, sdist, wheel

HOSTILE_REASON = """<script>alert("1")</script> & 'worse'"""
"""The reason with which `yanked` withdrew its version 2.0."""


def alpha() -> list[Project]:
    """`alpha` needs `beta` and `gamma`, `beta` needs `delta`; two versions of each, wheels with metadata."""
    needs = {"alpha": ["beta>=1", "gamma"], "beta": ["delta"], "gamma": [], "delta": []}
    return [
        Project(
            name,
            tuple(wheel(name, version, requires=requires, requires_python=">=3.8") for version in ("1.0", "2.0")),
        )
        for name, requires in needs.items()
    ]


def sdist_only() -> Project:
    """`sourceful`: a single source archive."""
    return Project("sourceful", (sdist("sourceful", "1.0"),))


def yanked() -> Project:
    """`yanked`: 1.0 is good, 2.0 is yanked for `HOSTILE_REASON`."""
    return Project("yanked", (wheel("yanked", "1.0"), wheel("yanked", "2.0", yanked=HOSTILE_REASON)))


def only_yanked() -> Project:
    """`regretted`: nothing but yanked files, without a reason."""
    return Project("regretted", (wheel("regretted", "1.0", yanked=True), sdist("regretted", "1.0", yanked=True)))


def torchy() -> Project:
    """`torchy`: 2.0 and the local version 2.0+cpu."""
    return Project("torchy", (wheel("torchy", "2.0"), wheel("torchy", "2.0+cpu")))


def odd_name() -> Project:
    """`Foo._Bar`, which PEP 503 normalises to `foo-bar`."""
    return Project("Foo._Bar", (wheel("Foo._Bar", "1.0"), sdist("Foo._Bar", "1.0")))


def chain(depth: int = 20) -> list[Project]:
    """`link-0` needs `link-1` needs … `link-{depth - 1}`."""
    return [
        Project(f"link-{i}", (wheel(f"link-{i}", "1.0", requires=[f"link-{i + 1}"] if i + 1 < depth else []),))
        for i in range(depth)
    ]


def tree(width: int = 30) -> list[Project]:
    """`root` needs `leaf-0` … `leaf-{width - 1}`."""
    leaves = [f"leaf-{i}" for i in range(width)]
    root = Project("root", (wheel("root", "1.0", requires=leaves),))
    return [root, *(Project(leaf, (wheel(leaf, "1.0"),)) for leaf in leaves)]


def layered(seed: int = 1) -> list[Project]:
    """`entry` and 60 projects in 8 layers, three versions each, that need up to three of the next layer."""
    rng = random.Random(seed)
    layers = [[f"layer-{i}-{j}" for j in range(8 if i < 4 else 7)] for i in range(8)]
    projects = [Project("entry", (wheel("entry", "1.0", requires=layers[0]),))]
    for layer, below in zip(layers, [*layers[1:], []], strict=True):
        for name in layer:
            needs = sorted(rng.sample(below, rng.randint(0, min(3, len(below)))))
            projects.append(Project(name, tuple(wheel(name, f"{n}.0", requires=needs) for n in (1, 2, 3))))
    return projects


def huge(name: str = "huge", versions: int = 2500) -> Project:
    """A page of two entries a version, wheel and source archive, whose digests are made up: no bytes exist."""
    escaped = normal(name).replace("-", "_")
    files: list[Listing] = []
    for i in range(versions):
        version = f"{i // 100}.{i // 10 % 10}.{i % 10}"
        files.append(_made_up(f"{escaped}-{version}-py3-none-any.whl", version, i))
        files.append(_made_up(f"{escaped}-{version}.tar.gz", version, i))
    return Project(name, tuple(files))


@cache
def bulky(size: int = 50 * 1024 * 1024) -> Project:
    """`bulky`: a wheel of `size` incompressible bytes and a little more; built once for each size."""
    return Project("bulky", (wheel("bulky", "1.0", blob=size),))


def everything() -> list[Project]:
    """All of the small sets at once."""
    singles = [sdist_only(), yanked(), only_yanked(), torchy(), odd_name()]
    return [*alpha(), *singles, *chain(), *tree()]


def _made_up(filename: str, version: str, i: int) -> Listing:
    def digest(kind: str, length: int) -> str:
        return hashlib.shake_256(f"{kind} {filename}".encode()).hexdigest(length)

    return Listing(
        filename=filename,
        version=version,
        size=10_000 + int(digest("size", 3), 16) % 1_000_000,
        sha256=digest("sha256", 32),
        md5=digest("md5", 16),
        blake2b=digest("blake2b", 32),
        metadata_sha256=digest("metadata", 32) if filename.endswith(".whl") else None,
        requires_python=">=3.9",
        upload_time=f"20{10 + i // 200 % 15:02}-{1 + i % 12:02}-{1 + i % 28:02}T{i % 24:02}:{i % 60:02}:07.{i:06}Z",
    )
