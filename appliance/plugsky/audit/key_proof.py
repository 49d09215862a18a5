"""What the records of keys say about the keys of the database. Pure.

A key's record is on disk before the key is in the database, so a key without a record was put there by somebody else,
and one that differs was changed by somebody else. A crash between the two leaves a record without its effect: a key
that is not there harms nobody, unless it was used; a key that was to end and did not is named, whatever the reason.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from plugsky.audit.events import KEY_CREATE, KEY_REVOKE, KEY_ROTATE, Fact, StoredKey, key_facts
from plugsky.audit.trail import Record
from plugsky.core.clock import rfc3339
from plugsky_bundles.errors import printable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def keys_speak(
    keys: Sequence[StoredKey], changes: Iterable[Record], used: Collection[str], before_us: int
) -> list[str]:
    """What speaks against ``keys``, read before the records were. Records since ``before_us`` ask nothing of them;
    ``used`` are the ids that made requests until then.
    """
    made: dict[str, Record] = {}
    ends: dict[str, list[Record]] = {}
    replaced: dict[str, Record] = {}
    for record in changes:
        if record.action == KEY_CREATE and record.outcome == "ok":
            made[record.subject] = record
        elif record.action == KEY_ROTATE and record.outcome == "ok":
            replaced[record.subject] = record
        elif record.action == KEY_ROTATE:
            replaced.pop(record.subject, None)
        elif record.action == KEY_REVOKE:
            ends.setdefault(record.subject, []).append(record)
    before = rfc3339(_EPOCH + timedelta(microseconds=before_us))
    wrong = [
        sentence
        for key in keys
        for sentence in _of_key(key, made.get(key.id), replaced.get(key.id), ends.get(key.id, []), before)
    ]
    gone = set(used) - {key.id for key in keys}
    wrong += [f"key {key_id} made requests, and is not in the database any more" for key_id in sorted(gone)]
    return wrong


def _of_key(
    key: StoredKey, made: Record | None, replaced: Record | None, ends: Sequence[Record], before: str
) -> Iterator[str]:
    name = f"key {printable(key.id)}"
    if made is None:
        yield f"{name} is in the database, and no record says that it was made"
    else:
        where = f"its record ({made.chain}, line {made.seq})"
        told = key_facts(key)
        del told["revoked_us"]
        recorded = dict(made.fields)
        if replaced is not None:
            recorded |= {fact: replaced.fields.get(fact) for fact in ("expires_us", "replaced_by")}
        facts = [fact for fact in {**told, **recorded} if fact != "revoked_us"]
        differing = [fact for fact in facts if recorded.get(fact) != _told(told.get(fact))]
        if differing:
            yield f"{name} differs from {where} in {', '.join(differing)}"
    outcomes = Counter(record.outcome for record in ends if record.time < before)
    if key.revoked_us is None and outcomes["ok"] > outcomes["failed"]:
        yield f"{name} was revoked, and the database lets it in: plugsky key revoke {printable(key.id)}"
    if key.revoked_us is not None and key.revoked_us not in [
        record.fields.get("revoked_us") for record in ends if record.outcome == "ok"
    ]:
        yield f"{name} is revoked in the database, and no record says so of that moment"


def _told(value: Fact) -> Fact:
    return printable(value) if isinstance(value, str) else value
