"""Every event that the mirror counts, each with its meaning, and the one object that counts them."""

from __future__ import annotations

from collections import Counter
from typing import Final

EVENTS: Final[dict[str, str]] = {
    "requests": "Requests answered.",
    "pages_memory": "Project pages answered from memory.",
    "pages_store": "Project pages answered from the store.",
    "pages_upstream": "Project pages that upstream was asked for before answering.",
    "pages_stale": "Project pages answered although older than their lifetime, because upstream could not confirm them.",
    "files_cache": "Archives answered from the cache on this machine's disk.",
    "files_store": "Archives answered from the store.",
    "files_redirected": "Archives that clients were sent to the store for.",
    "files_upstream": "Archives answered while they arrived from upstream.",
    "files_joined": "Requests that joined a download that was already on its way.",
    "upstream_requests": "Requests sent to upstream.",
    "upstream_retries": "Requests to upstream that were repeated after a failure.",
    "upstream_failures": "Requests to upstream that failed for good.",
    "upstream_breaker_opened": "Times that the circuit breaker of an upstream opened.",
    "upstream_redirects_refused": "Redirects that were not followed: loop, private address, other scheme, credentials.",
    "upstream_addresses_refused": "Connections not made because a name resolved to a private address.",
    "upstream_pages_unusable": "Upstream pages that could not be parsed.",
    "upstream_entries_dropped": "Entries of upstream pages left off because they were hostile or unusable.",
    "upstream_older_serial": "Upstream pages refused because they were older than the copy held.",
    "upstream_files_changed": "Files whose digest on upstream's page changed; the first digest stays in force.",
    "upstream_unexpected_304": "Answers 304 to an unconditional request.",
    "integrity_failures": "Downloads whose bytes were not those that the index promised.",
    "metadata_mismatches": "Core metadata whose digest was not the promised one.",
    "metadata_derived": "Core metadata read out of wheels because upstream has none.",
    "metadata_underivable": "Wheels whose core metadata could not be read.",
    "fills_abandoned": "Downloads given up because every client had left.",
    "fills_in_memory": "Downloads spooled in memory because the disk could not be written.",
    "fills_unspooled": "Downloads streamed past disk and memory because neither had room; each of their clients asks upstream.",
    "store_failures": "Reads or writes that the store refused.",
    "store_requests": "Requests sent to an object store.",
    "store_retries": "Requests to an object store that were repeated after a failure.",
    "store_breaker_opened": "Times that the circuit breaker of the object store opened.",
    "store_writes_deferred": "Archives that the store could not take at once and that wait in the cache for it.",
    "store_writes_caught_up": "Archives that waited in the cache and that the store has taken since.",
    "store_writes_dropped": "Archives that the store will not be given: too many wait already, or it refuses them.",
    "store_uploads_dropped": "Bodies on their way to the store that were given up: it was too slow, or they ended early.",
    "store_quarantined": "Stored objects taken out of service because their bytes were damaged.",
    "cache_failures": "Reads or writes that a cache on this machine's disk refused.",
    "cache_damaged": "Entries of a cache that were not as they had been written, or tried to lead elsewhere.",
    "cache_rebuilt": "Times that a cache on this machine's disk was emptied and begun anew.",
    "cache_evicted": "Entries removed from a cache to make room.",
    "leases_taken": "Downloads that this replica led for all replicas.",
    "leases_awaited": "Files that another replica was downloading and that were then read from the store.",
    "leases_overdue": "Files that another replica did not deliver in time and that this one downloaded itself.",
    "access_failures": "Times that what was read could not be recorded for the store's garbage collection.",
    "responses_aborted": "Answers broken off after their first byte.",
    "background_failures": "Background tasks that ended with an unforeseen error.",
}


class Counters:
    """Counts events by name. An unknown name is a programming error and raises `KeyError`."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, event: str, by: int = 1) -> None:
        if event not in EVENTS:
            raise KeyError(event)
        self._counts[event] += by

    def __getitem__(self, event: str) -> int:
        return self._counts[event]

    def exposition(self) -> str:
        """All counters in Prometheus' text format, version 0.0.4."""
        lines = []
        for event, meaning in EVENTS.items():
            name = f"mirror_{event}_total"
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} counter", f"{name} {self._counts[event]}"]
        return "\n".join(lines) + "\n"
