"""What the site believes, on disk: ``trust/state.json``, the :class:`TrustState` after the newest accepted bundle.

Replaced in one step, so a power cut leaves the old belief or the new one. It is the anchor of every later
verification; the fingerprint from the paper is needed only while it does not exist. Roots of before stay in
``trust/roots/<fingerprint>.json``: kept generations were verified by them. Nothing new is.
"""

from pathlib import Path

from tuf.api.metadata import Root

from plugsky.core.paths import SitePaths
from plugsky_bundles.atomic import out_of_space, write_file
from plugsky_bundles.format import MAX_ROOT
from plugsky_bundles.metadata import key_names, read_metadata
from plugsky_bundles.sharing import file_mode
from plugsky_bundles.state import MAX_STATE, TrustState
from plugsky_bundles.walk import fingerprint


def load(paths: SitePaths) -> TrustState | None:
    """What the site believes; None before its first installation. Raises MalformedMetadata for a damaged file."""
    try:
        with paths.trust_state.open("rb") as file:
            return TrustState.from_json(file.read(MAX_STATE + 1))
    except FileNotFoundError:
        return None


def save(paths: SitePaths, state: TrustState) -> None:
    """Make ``state`` what the site believes. Raises NoSpace; then the old state stands."""
    with out_of_space(paths.trust):
        paths.trust.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = load(paths)
        if before is not None and before.root != state.root:
            _former(paths).mkdir(mode=0o700, exist_ok=True)
            former = _former(paths) / f"{fingerprint(before.root)}.json"
            write_file(former, before.root, mode=file_mode(former.parent))
        write_file(paths.trust_state, state.to_json(), mode=file_mode(paths.trust))


def roots(paths: SitePaths) -> list[bytes]:
    """The root that the site trusts and those that it trusted before. Raises MalformedMetadata."""
    believed = load(paths)
    if believed is None:
        return []
    former = sorted(_former(paths).glob("*.json")) if _former(paths).is_dir() else []
    return [believed.root, *(path.read_bytes()[: MAX_ROOT + 1] for path in former)]


def people(state: TrustState) -> str:
    """Who holds keys of the root that is believed, and how many of them must sign a reset, in words."""
    root = read_metadata(state.root, Root, "The trusted root of this site").signed
    names, role = key_names(root, "The trusted root of this site"), root.roles["root"]
    holders = ", ".join(sorted(names.get(keyid, keyid) for keyid in role.keyids))
    return f"{role.threshold} of {holders}, the people of root {root.version}, which this site trusts"


def _former(paths: SitePaths) -> Path:
    return paths.trust / "roots"
