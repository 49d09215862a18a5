"""Every way a bundle, a key or a trust directory can be refused, as one tree of named errors.

Each error carries three sentences: what happened, why, and the next thing to do. `exit_code` is what a command line
ends with (0 ok, 1 failed, 2 usage, 3 declined, 4 not authorised, 5 verification failed, 6 refused by policy,
7 not found, 8 unreachable). Text that came from media may hold anything, so control and bidirectional characters
are escaped here, once, before anyone prints them. Nothing in an error is secret.
"""

# ruff: noqa: N818 - the names say what was found (Rollback, Revoked); they are also the codes in JSON output

from __future__ import annotations

import re
from typing import ClassVar, Final

MAX_TEXT = 600
RECOPY: Final = "Copy the bundle again from its source, or run `plugsky bundle repair` on it"
"""What to do next about a copy that is not what was signed."""


def printable(text: str) -> str:
    """`text` on one line, escaped where a terminal or a log could be fooled, and cut at 600 characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


class BundleError(Exception):
    """What happened, why, and what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str, then: str) -> None:
        self.what, self.why, self.next = printable(what), printable(why), printable(then)
        super().__init__(self.what, self.why, self.next)

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. {self.next}"

    @property
    def code(self) -> str:
        """The error's name in machine-readable output, for example `digest_mismatch`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class VerificationError(BundleError):
    """The bundle is not what trusted people signed. Never continue."""

    exit_code = 5


class MalformedMetadata(VerificationError):
    """Metadata that does not follow the format: not JSON, too large, too deep, a field missing or out of range."""


class MalformedChunkList(VerificationError):
    """A chunk list that does not decode, or does not add up to its file."""


class UnsafeName(VerificationError):
    """A path or a role name outside the allowed alphabet, or two names that a file system could mix up."""


class UntrustedRoot(VerificationError):
    """The root metadata does not lead back to the one that this site trusts."""


class BadKey(VerificationError):
    """A key that is not named by its own hash, is listed twice, or uses a scheme that is not allowed."""


class SignatureMissing(VerificationError):
    """A role without any signature."""


class SignatureUnknown(VerificationError):
    """A signature by a key that the role does not name."""


class SignatureInvalid(VerificationError):
    """A signature by a known key over other bytes."""


class ThresholdNotMet(VerificationError):
    """Fewer good signatures than the role asks for."""


class OtherContent(VerificationError):
    """A copy, to be merged or counted, that is of something else than what lies here."""


class TrustLost(VerificationError):
    """A site that runs on a bundle and has lost what it believed: floors, revocations and the root."""


class FingerprintDiffers(VerificationError):
    """A key card, or a root, that is not the one whose fingerprint was told."""


class MetadataExpired(VerificationError):
    """Metadata past its date, by the newest time that this site can prove."""


class SealedInFuture(VerificationError):
    """A bundle sealed at a time that has not come yet: the build machine's clock or this one's is wrong."""


class Rollback(VerificationError):
    """An older version than one already accepted, or other content under the same version."""


class MixAndMatch(VerificationError):
    """Metadata of one bundle beside metadata of another."""


class Revoked(VerificationError):
    """A bundle, a key or a digest that has been revoked."""


class ChunksUnknown(VerificationError):
    """An installed file whose chunks are not known, so that nobody can tell whether one of them was revoked."""


class DigestMismatch(VerificationError):
    """Bytes that are not the ones signed: changed, missing or too many."""


class BlobMissing(VerificationError):
    """A listed file that is not on the media."""


class MetadataMissing(VerificationError):
    """A metadata file that is not on the media."""


class BaseMissing(VerificationError):
    """A delta without what it builds on: metadata or blobs that are neither on the media nor held here."""


class UnlistedFile(VerificationError):
    """A file, link or device on the media that no signed list names."""


class MediaUnreadable(VerificationError):
    """The medium did not give back its bytes: an input/output error."""


class StreamCut(MediaUnreadable):
    """A tar stream that ends before its end: lost on its way. What came before may be kept."""


class VolumeMissing(MediaUnreadable):
    """A volume of a split bundle that nobody has brought. What the others gave may be kept."""


class ReadBackMismatch(VerificationError):
    """A medium that gives back other bytes than were written to it: worn out, or smaller than it says."""


class MalformedStream(VerificationError):
    """A tar stream that is not the one way in which a bundle is written as one."""


class StreamEncrypted(VerificationError):
    """A tar stream that is still encrypted with age.

    `path` is where it was, `-` for standard input.
    """

    def __init__(self, what: str, why: str, then: str, *, path: str = "-") -> None:
        super().__init__(what, why, then)
        self.path = path


class VolumeForeign(VerificationError):
    """A volume of another bundle."""


class VolumeStale(VerificationError):
    """A volume of the same channel in another version."""


class VolumeMixed(VerificationError):
    """A volume whose label does not fit its bundle, or one that was split for another size."""


class VolumeDuplicated(VerificationError):
    """Two directories that both say they are the same volume."""


class NotRepaired(VerificationError):
    """A copy that is still damaged: the other copy does not have what it lacks."""


class NotSealed(VerificationError):
    """A bundle that has not been signed and sealed yet."""


class ChainError(VerificationError):
    """A hash-chained log that was edited, reordered or cut; says where.

    `seq` is the number of the first record that cannot be trusted, `offset` the byte at which its line begins.
    """

    def __init__(self, what: str, why: str, then: str, *, seq: int, offset: int) -> None:
        super().__init__(what, why, then)
        self.seq, self.offset = seq, offset


class CustodyDoubt(VerificationError):
    """Something in the records of who had a bundle in hand is missing, cut, or by nobody who is known."""


class PlanMismatch(VerificationError):
    """A plan that was made for another bundle than the one at hand."""


class GgufError(VerificationError):
    """A model file that is not a well-formed GGUF."""


class WheelError(VerificationError):
    """A wheel that installers could read in different ways, or that does more than its name says."""


class RecipeError(BundleError):
    """A recipe with an unknown key, a missing value or a wrong hash."""

    exit_code = 2


class SourceError(BundleError):
    """Something a recipe asks for could not be obtained."""


class SourceUnreachable(SourceError):
    """The network, a mirror or a proxy did not answer."""

    exit_code = 8


class SourceForbidden(SourceError):
    """A server wants to know who asks, or does not let us have the file."""

    exit_code = 4


class SourceMissing(SourceError):
    """A server does not have what the recipe names."""

    exit_code = 7


class NotCached(SourceError):
    """A build without a network lacks something in its cache; says everything that it lacks."""

    exit_code = 7


class RehearsalFailed(BundleError):
    """The parts of a bundle cannot be installed where there is no network, or nobody could try."""


class VulnerabilitiesUnchecked(BundleError):
    """A build that must have asked for known vulnerabilities could not."""


class AmbiguousKeys(BundleError):
    """Cards that would give one key two voices or two names, or one name to two keys."""

    exit_code = 2


class BadRecipient(BundleError):
    """What is to read an encrypted copy, and is no recipient of age."""

    exit_code = 2


class BadThreshold(BundleError):
    """A threshold that its number of keys can never meet."""

    exit_code = 2


class NoSpace(BundleError):
    """Not enough room; says how much is needed and how much is there."""


class FileTooLarge(BundleError):
    """A file larger than the file system, or the form of media, can hold."""


class VolumeTooSmall(BundleError):
    """A size of volumes that one part of the bundle alone exceeds."""

    exit_code = 2


class SiteUnwritable(BundleError):
    """The site's file system refused a write for another reason than space."""


class SiteExposed(BundleError):
    """A site in a directory that somebody else can change, so that what is checked there may not stay."""

    exit_code = 4


class UnfitSite(BundleError):
    """A site on file systems that cannot hold an installation, however much room they have."""


class NotForThisHost(BundleError):
    """Parts of the bundle were made for another Python or machine."""


class InstallError(BundleError):
    """A generation could not be put together from parts that were all verified."""


class HealthCheckFailed(BundleError):
    """A generation that was installed as signed and does not work on this host; the one before it stays current."""


class Busy(BundleError):
    """Another process is working on the same site or output directory; later the same command may succeed."""

    exit_code = 8


class SiteChanged(BundleError):
    """A site that is no longer what it was when the bundle was verified or the plan was made."""


class ExistsError(BundleError):
    """Something is already where the result would go."""


class NotFound(BundleError):
    """A directory, key or bundle that is not where it was said to be."""

    exit_code = 7


class PassphraseError(BundleError):
    """The passphrase does not open the key."""

    exit_code = 4


class KeyUnusable(BundleError):
    """No key at hand may do what was asked."""

    exit_code = 4


class RootWaiting(BundleError):
    """A root that too few of its people have signed yet."""

    exit_code = 4


class HsmUnavailable(BundleError):
    """A hardware security module, or its library, that cannot be reached or does not hold the key."""

    exit_code = 8


class NotApproved(BundleError):
    """A bundle that too few enrolled approvers have approved for this site."""

    exit_code = 6


class EnrolmentRefused(BundleError):
    """A key that cannot be enrolled: it, or its name, stands for somebody already, or the list is full."""

    exit_code = 6


class EnrolmentLocked(BundleError):
    """Keys of a site that may change only by a statement of its root's people."""

    exit_code = 6
