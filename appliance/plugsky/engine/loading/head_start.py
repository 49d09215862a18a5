"""What of loading needs neither numpy nor llama.cpp: begun before they are imported, and carried on beside them.

* The digest of the model's files: SHA-256 takes about a second per gigabyte, on a thread that holds nobody up.
* The child that renders templates: Python and Jinja take as long to start as a small model to load.

**Nothing is served before the digest holds**: :func:`plugsky.engine.loading.loading.load` ends with
:meth:`HeadStart.vouch`. But llama.cpp maps the file and reads the canary while it is being hashed, after our own
bounded reader has let its header through. Hashing first would keep a file that was changed on disk from llama.cpp's
parser of vocabularies; it would not keep one from it that is changed between the two, and whoever may write to the
store may as well change the programs. So the digest answers for what is served, not for what is parsed; the parser
works without a network, in a process that sees one model. A file changed in place after it was hashed is not noticed
until the next load, in either order.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

from plugsky.engine.loading.model_file import check_digest
from plugsky.engine.prompting import renderer
from plugsky.engine.spec import EngineSpec

ResultT = TypeVar("ResultT")

TICK_S: Final = 0.1
"""Seconds between two looks at whether loading was stopped, while only the digest is waited for."""


class HeadStart:
    """What was begun for one load. Close it when that fails; after a load it has nothing left to close."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.child = renderer.spawn() if spec.mode == "generate" else None
        self.hashed = 0.0
        """The fraction of the files that has been hashed."""
        self._stopped = False
        self._threads = ThreadPoolExecutor(2, "head-start")
        self._digest = self._threads.submit(check_digest, spec.file, spec.digest, self._on_hashed)

    def beside(self, work: Callable[[], ResultT]) -> Future[ResultT]:
        """Do ``work`` on another thread."""
        return self._threads.submit(work)

    def vouch(self, progress: Callable[[float], bool]) -> None:
        """Wait until the files are known to be the ones that were installed.

        ``progress`` gets fractions from 0 to 1 and gives False to stop. Raises as
        :func:`~plugsky.engine.loading.model_file.check_digest` does.
        """
        while not wait([self._digest], TICK_S).done:
            self._stopped |= not progress(self.hashed)
        self._digest.result()
        self._threads.shutdown(wait=False)
        progress(1.0)

    def dismiss(self) -> None:
        """End the child: this model has no template."""
        if self.child is not None:
            self.child.close()

    def close(self) -> None:
        """Stop what was begun and is still of no use to anybody."""
        self._stopped = True
        self._threads.shutdown()
        self.dismiss()

    def _on_hashed(self, fraction: float) -> bool:
        self.hashed = fraction
        return not self._stopped
