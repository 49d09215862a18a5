"""A site with a past: trust, an installed generation, two settled requests, and every record of it."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

from appliance.fresh_site import fresh_database, fresh_paths
from appliance.hand_clock import HandClock
from plugsky.access.keys import KeyRecord, Keys
from plugsky.access.ledger import Ledger
from plugsky.audit import AuditLog, events
from plugsky.core.frames import Usage
from plugsky_bundles import strict_json
from plugsky_bundles.ceremony import init
from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.state import TrustState
from plugsky_bundles.trustdir import open_trust

PASSPHRASE = b"a passphrase of a test"
BUNDLE_ID, CONTENT_ID, DIGEST = "b" * 64, "c" * 64, "d" * 64
VERSION = 3


@cache
def _ceremony() -> tuple[tempfile.TemporaryDirectory[str], str]:
    folder = tempfile.TemporaryDirectory()
    made = init(Path(folder.name) / "trust", PASSPHRASE, now=HandClock().now())
    with open_trust(made.path).custody(PASSPHRASE) as custody:
        custody.append({"event": "bundle.seal", "at": "2026-11-22T17:00:00Z", "content_id": CONTENT_ID})
    return folder, made.fingerprint


class ProvenSite:
    """``record_request`` adds a request as the gateway does; ``close`` ends its processes' part."""

    def __init__(self, root: Path) -> None:
        folder, self.fingerprint = _ceremony()
        self.trust = Path(folder.name) / "trust"
        self.clock = HandClock()
        self.paths = fresh_paths(root)
        self.database = fresh_database(self.paths.database)
        self.keys = Keys.open(self.database, self.paths, self.clock)
        self._install()
        self.gateway = AuditLog.open(self.paths, "gateway", self.clock)
        self.ledger = Ledger(self.database, self.clock, self.gateway.name)
        self.key = self.keys.create("demo", witness=lambda key: self._changed(events.KEY_CREATE, key))
        for job in ("job-1", "job-2"):
            self.record_request(job)
        self.clock.pass_(minutes=1)

    def record_request(self, job: str, *, audited: bool = True) -> None:
        principal = self.keys.authenticate([(b"authorization", f"Bearer {self.key.secret}".encode())])
        self.ledger.reserve(job=job, principal=principal, requested_model="m", model="m", digest=DIGEST, tokens=100)
        row = self.ledger.settle(job, Usage(10, 20, 5, 4000), "stop")
        if audited:
            self.gateway.record(*events.request_done(row, {"status": 200}))

    def revoke(self, *, recorded: bool = True) -> None:
        witness = (lambda key: self._changed(events.KEY_REVOKE, key)) if recorded else None
        self.keys.revoke(self.key.record.id, witness)

    def _changed(self, action: str, key: KeyRecord) -> None:
        self.gateway.record(*events.key_changed(action, "root(0)", key))

    def close(self) -> None:
        self.gateway.close()
        self.database.close()

    def _install(self) -> None:
        generation = self.paths.generations / "1"
        (generation / "evidence").mkdir(parents=True)
        custody = generation / "evidence" / "custody.jsonl"
        shutil.copyfile(self.trust / "custody.jsonl", custody)
        bundle = {
            "schema": "plugsky.generation/1",
            "channel": "demo",
            "version": VERSION,
            "bundle_id": BUNDLE_ID,
            "content_id": CONTENT_ID,
            "root_fingerprint": self.fingerprint,
            "plan": "e" * 64,
            "installed_at": "2026-11-22T17:00:00.000000Z",
            "files": [],
        }
        (generation / "bundle.json").write_bytes(strict_json.encode(bundle))
        (generation / ".complete").touch()
        self.paths.trust.mkdir(parents=True, exist_ok=True)
        self.paths.trust_state.write_bytes(TrustState(open_trust(self.trust).root_bytes).to_json())
        with AuditLog.open(self.paths, "cli", self.clock) as log:
            log.record(
                *events.bundle_install(
                    "root(0)",
                    bundle_id=BUNDLE_ID,
                    content_id=CONTENT_ID,
                    channel="demo",
                    version=VERSION,
                    generation=1,
                    root_fingerprint=self.fingerprint,
                    custody_head=verify_chain(custody).head.hash,
                )
            )
