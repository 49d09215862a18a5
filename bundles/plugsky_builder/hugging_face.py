"""Downloads one file of a model repository on Hugging Face, or on the mirror that HF_ENDPOINT names.

huggingface_hub asks the hub: does the file exist at that commit, may we have it, under which terms, and which SHA-256
has it there? A file that is not the pinned one is refused before a byte of it is read. Its bytes come by our own
bounded and resumable download. The token is HF_TOKEN or that of `hf auth login`; it goes to the hub's own host alone.
Telemetry is off.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx2

from plugsky.core import env
from plugsky_builder import https, web
from plugsky_builder.cache import Cache
from plugsky_builder.file_sources import HuggingFaceFile, is_safe
from plugsky_bundles.errors import (
    DigestMismatch,
    SourceError,
    SourceForbidden,
    SourceMissing,
    SourceUnreachable,
)
from plugsky_bundles.format import is_sha256
from plugsky_bundles.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

HUB: Final = "https://huggingface.co"
SECONDS: Final = 60.0
_LICENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+ -]{0,99}")


def fetch(source: HuggingFaceFile, cache: Cache, progress: Progress) -> Path:
    """The cached file. Raises SourceError and its kinds, DigestMismatch or NoSpace; or NotCached without a network."""
    if not is_cached(source, cache):
        cache.going_out(source.origin)
        progress(ProgressEvent("fetch", 0, 1, source.name))
        wanted, known = _locate(source)
        if not cache.has(source.sha256):
            https.fetch(wanted, cache, progress)
        cache.keep_note(_note(source), known)
    return cache.file(source.sha256)


def is_cached(source: HuggingFaceFile, cache: Cache) -> bool:
    return cache.has(source.sha256) and cache.note(_note(source)) is not None


def terms(source: HuggingFaceFile, cache: Cache) -> dict[str, str]:
    """What the hub said when the file was fetched: `licence` by its publisher, and `gated`: no, auto or manual."""
    known = cache.note(_note(source))
    return {key: str(known[key]) for key in ("gated", "licence") if key in known} if isinstance(known, dict) else {}


def _note(source: HuggingFaceFile) -> str:
    return f"hub-{source.revision}-{source.sha256}"


def _locate(source: HuggingFaceFile) -> tuple[https.Wanted, dict[str, str]]:
    """Where the file is, and its terms. Everything that the hub refuses is refused here, by name."""
    env.set_default(env.HF_HUB_DISABLE_TELEMETRY, "1")  # read when huggingface_hub is imported
    import huggingface_hub
    from huggingface_hub import errors

    endpoint = (env.HF_ENDPOINT.read() or HUB).rstrip("/")
    _check_endpoint(endpoint)
    token = huggingface_hub.get_token() or False
    huggingface_hub.set_client_factory(_client)
    huggingface_hub.close_session()
    try:
        api = huggingface_hub.HfApi(endpoint=endpoint, token=token, library_name=web.AGENT)
        info = api.model_info(source.repository, revision=source.revision, timeout=SECONDS)
        url = huggingface_hub.hf_hub_url(source.repository, source.path, revision=source.revision, endpoint=endpoint)
        found = huggingface_hub.get_hf_file_metadata(url, token=token, timeout=SECONDS, endpoint=endpoint)
    except errors.GatedRepoError as error:
        raise SourceForbidden(f"{source.name} is gated", _who(token), _accept(source)) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        lacks = "file" if isinstance(error, errors.RemoteEntryNotFoundError) else "commit"
        raise SourceMissing(
            f"{source.origin} is not there", f"the hub has no such {lacks}", "Correct the recipe"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceMissing(
            f"{source.repository} is not there, or is private",
            f"the hub does not show it; {_who(token)}",
            "Correct the repo in the recipe, or log in with `hf auth login` or HF_TOKEN",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(source, error.response.status_code, endpoint) from error
    except (errors.OfflineModeIsEnabled, httpx2.HTTPError, errors.LocalTokenNotFoundError) as error:
        raise SourceUnreachable(
            f"{source.name} could not be downloaded",
            web.redacted(str(error)) or type(error).__name__,
            "Check the network, HTTPS_PROXY, HF_ENDPOINT and HF_HUB_OFFLINE",
        ) from error
    finally:
        huggingface_hub.close_session()
    _check_promise(source, found)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    size = source.size if source.size is not None else found.size
    wanted = https.Wanted(url, source.sha256, size, source.name, _accept(source), headers)
    licence = info.card_data.get("license") if info.card_data else None
    known = {"gated": str(info.gated or "no").lower()}
    if isinstance(licence, str) and _LICENCE.fullmatch(licence):
        known["licence"] = licence
    return wanted, known


def _client() -> httpx2.Client:
    """What huggingface_hub asks the hub with: our client, but following redirects; no file comes this way."""
    client = web.client()
    client.follow_redirects = True
    return client


def _check_endpoint(endpoint: str) -> None:
    if not is_safe(urlsplit(endpoint)):
        raise SourceError(
            f"{env.HF_ENDPOINT.name} cannot be used", "it must begin with https://", f"Correct {env.HF_ENDPOINT.name}"
        )


def _check_promise(source: HuggingFaceFile, found: HfFileMetadata) -> None:
    """Refuse a file that the hub itself says is another one than the recipe pins."""
    if found.commit_hash != source.revision:
        raise SourceMissing(
            f"{source.origin} is not there", f"the hub answers with commit {found.commit_hash}", "Correct the recipe"
        )
    if found.etag and is_sha256(found.etag) and found.etag != source.sha256:
        raise DigestMismatch(
            f"{source.name} is not what the recipe pins",
            f"the hub has SHA-256 {found.etag}, not {source.sha256}",
            "Check the hash in the recipe against the publisher's",
        )


def _who(token: str | bool) -> str:
    return "the hub does not let this token in" if token else "there is no token"


def _accept(source: HuggingFaceFile) -> str:
    return f"Accept its licence on {HUB}/{source.repository}, then log in with `hf auth login` or set HF_TOKEN"


def _refused(source: HuggingFaceFile, status: int, endpoint: str) -> SourceError:
    what, why = f"{source.name} could not be downloaded", f"{endpoint} answered {status}"
    if status in (401, 403):
        return SourceForbidden(what, why, _accept(source))
    return SourceUnreachable(what, why, "Try again later, or name a mirror by HF_ENDPOINT")
