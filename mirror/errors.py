"""The tree of failures: each says in one sentence what went wrong and carries its facts as attributes.

The message of every error is fit for a client to read: it names no path of this machine, no
credential and no header. `mirror.web.failures` holds the one table that maps this tree to HTTP.
"""

from __future__ import annotations


class MirrorError(Exception):
    """Root of every failure that the mirror foresees."""


# --- the client asked for something that is not right -------------------------------------------


class BadRequest(MirrorError):
    """The request itself is not right; the same request will never succeed."""


class InvalidName(BadRequest):
    """A project or file name that the specifications (or our allow-list) do not admit."""

    def __init__(self, kind: str, value: str, why: str) -> None:
        self.kind, self.value, self.why = kind, value, why
        super().__init__(f"{printable(value)} is not a valid {kind}: {why}.")


class UnsatisfiableSpan(BadRequest):
    """A byte range that begins past the end of the file (RFC 9110 §14.1.2)."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(f"The requested range starts past the end: the file has {size} bytes.")


class NotAcceptable(BadRequest):
    """No media type in the client's Accept is one that this resource has."""

    def __init__(self, offered: tuple[str, ...]) -> None:
        self.offered = offered
        super().__init__(f"None of the accepted media types is offered here; offered: {', '.join(offered)}.")


# --- the world does not have it ------------------------------------------------------------------


class NotFound(MirrorError):
    """An authority said that this does not exist. Never raised because somebody could not be asked."""


class NoSuchProject(NotFound):
    """Upstream, asked now or a moment ago, does not know this project."""

    def __init__(self, project: str) -> None:
        self.project = project
        super().__init__(f"There is no project named {printable(project)}.")


class NoSuchFile(NotFound):
    """No index page and no stored archive names this file."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        super().__init__(f"No index page names the file {printable(filename)}.")


class NoSuchSidecar(NotFound):
    """The file exists, but not the metadata, provenance or signature that was asked for."""

    def __init__(self, filename: str, kind: str) -> None:
        self.filename, self.kind = filename, kind
        super().__init__(f"{printable(filename)} has no {kind}.")


class NotHeld(NotFound):
    """The mirror is offline and holds no copy."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"This mirror is offline and holds no copy of {printable(what)}.")


# --- somebody whom we had to ask failed ----------------------------------------------------------


class UpstreamFailure(MirrorError):
    """Upstream could not be asked or did not answer properly; asking again later may help."""

    def __init__(self, upstream: str, why: str, *, retry_after: float | None = None) -> None:
        self.upstream, self.why, self.retry_after = upstream, why, retry_after
        super().__init__(f"Upstream {upstream} failed: {why}.")


class UpstreamDown(UpstreamFailure):
    """Refused, unreachable, timed out, reset, or held back by the circuit breaker."""


class UpstreamBusy(UpstreamFailure):
    """Upstream answered 429, or 503 with Retry-After; `retry_after` is in seconds and bounded."""


class UpstreamMisbehaved(UpstreamFailure):
    """An answer that no index should give: bad status, forbidden redirect, page that is no page, bomb."""


class IntegrityError(UpstreamFailure):
    """The bytes are not those that the index promised: wrong digest, too long or too short."""

    def __init__(self, upstream: str, filename: str, why: str) -> None:
        self.filename = filename
        super().__init__(upstream, f"{printable(filename)} {why}")


class StoreFailure(MirrorError):
    """The store could not be read or written; `why` is the operating system's or service's reason."""

    def __init__(self, action: str, key: str, why: str) -> None:
        self.action, self.key, self.why = action, key, why
        super().__init__(f"The store could not {action} {printable(key)}: {why}.")


class ShuttingDown(MirrorError):
    """The mirror is being stopped and cannot finish this request."""

    def __init__(self) -> None:
        super().__init__("This mirror is being stopped; please try again.")


# --- an archive that nobody can vouch for ---------------------------------------------------------


class UnreadableArchive(MirrorError):
    """A wheel or source archive out of which core metadata cannot be read, or not without doubt."""

    def __init__(self, filename: str, why: str) -> None:
        self.filename, self.why = filename, why
        super().__init__(f"{printable(filename)} cannot be read: {why}.")


# --- the start ------------------------------------------------------------------------------------


class ConfigError(MirrorError):
    """Settings that are unknown, malformed or impossible; each problem is one line that says what to do."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class StartError(MirrorError):
    """Something outside the settings keeps the mirror from starting: a port in use, a read-only folder."""


def printable(text: str, limit: int = 120) -> str:
    """`text` as it may stand in a message or log line: ASCII, one line, at most `limit` characters.

    Everything else is escaped, so that no client can forge a line or a header (CR, LF, NUL) and no
    lone surrogate breaks the encoder.
    """
    safe = text.encode("ascii", "backslashreplace").decode("ascii")
    safe = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in safe)
    return safe if len(safe) <= limit else safe[: limit - 1] + "~"
