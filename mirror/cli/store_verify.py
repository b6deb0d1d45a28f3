"""`mirror store verify`: is every stored byte what it should be?"""

from __future__ import annotations

import re
from typing import Any

import click

from mirror.cli.options import Given, with_settings_named
from mirror.cli.store_places import configured, opened
from mirror.cli.store_session import EXIT_FINDINGS, SETTINGS, Document, Progress, Session, human, run
from mirror.maintenance.findings import Account, Finding, Kind
from mirror.maintenance.verification import Verification

_PART = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?(%?)")


def _part(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """`5%` or `0.05`."""
    found = _PART.fullmatch(value)
    part = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if not 0 < part <= 1:
        raise click.BadParameter("give more than 0% and at most 100%, such as 5%", ctx, param)
    return part


@click.command(name="verify")
@click.option("--repair", is_flag=True, help="Quarantine what is damaged, so that the mirror fetches it anew.")
@click.option(
    "--sample",
    callback=_part,
    default="100%",
    metavar="PERCENT",
    help="Read only so many of the archives and sidecars, chosen at random, such as 5%. Pages are all read, and of "
    "every archive the size is checked.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: `findings`, and counts.")
@with_settings_named(SETTINGS)
def command(given: Given, *, repair: bool, sample: float, as_json: bool) -> int:
    """Re-read the whole store and check it against itself.

    Every project page is unpacked and parsed, every archive is hashed and held against the digest that its page gives
    (or an earlier page gave), core metadata too. Nothing is changed without --repair. The store may be in use: what
    looks wrong is looked at again before it is reported.

    \b
    Findings:
      damaged     the bytes are not what was stored, or what the page promises
      unreadable  the store does not give the object
      orphan      no stored page names it; it is not served until one does
      missing     core metadata (or a hosted archive) that is promised, and gone
      stray       a key that the mirror never writes

    --repair moves what is damaged to quarantine/, where its bytes are kept and nobody is served them. The mirror fetches
    it anew when it is asked for. Hosted packages (local/), pins and the records of where upstreams are, are
    never touched: nobody could fetch them again.

    The exit code is 1 if anything was found, also if it was repaired.

    \b
    Examples:
      mirror store verify
      mirror store verify --sample 5%           every night
      mirror store verify --repair --json
    """

    async def work(session: Session) -> int:
        document = Document("findings", as_json=as_json)

        def found(finding: Finding) -> None:
            done = " (quarantined)" if finding.quarantined else ""
            document.item(
                {
                    "kind": finding.kind.value,
                    "key": finding.key,
                    "why": finding.why,
                    "quarantined": finding.quarantined,
                },
                f"{finding.kind.value:10}  {finding.key}: {finding.why}{done}",
            )

        async with opened(configured(session.config), session.counters, session.clock) as store:
            verification = Verification(
                store, session.tasks, repair=repair, sample=sample, found=found, progress=Progress(_told)
            )
            account = await verification.run()
        document.end(_facts(account), [_summary(account)])
        return 0 if account.sound else EXIT_FINDINGS

    return run(given, work)


def _facts(account: Account) -> dict[str, Any]:
    return {
        "sound": account.sound,
        "projects": account.projects,
        "objects": account.objects,
        "bytes_read": account.bytes_read,
        "unproven": account.unproven,
        "quarantined": account.quarantined,
        "counts": {kind.value: account.findings[kind] for kind in Kind},
    }


def _told(account: Account) -> str:
    wrong = account.findings.total()
    return (
        f"{account.projects} projects, {account.objects} objects, {human(account.bytes_read)} read"
        f"{f', {wrong} findings' if wrong else ''}"
    )


def _summary(account: Account) -> str:
    if account.sound:
        return f"Sound: {_told(account)}."
    counts = ", ".join(f"{account.findings[kind]} {kind.value}" for kind in Kind if account.findings[kind])
    return f"Not sound: {counts}; {account.quarantined} quarantined. {_told(account)}."
