import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plugsky_bundles import keys
from plugsky_bundles.chain import ChainWriter, verify_chain

WRITER = """
import sys
from pathlib import Path
from plugsky_bundles import keys
from plugsky_bundles.chain import ChainWriter

chain = ChainWriter(Path(sys.argv[1]), keys.load(Path(sys.argv[2]), None), "test")
for number in range(1_000_000):
    chain.append({"number": number})
    if number % 50 == 0:
        chain.commit()
    print(number, flush=True)
"""


@pytest.mark.integration
@pytest.mark.parametrize("after", [1, 60, 333])
def test_every_record_that_a_killed_process_acknowledged_is_there_and_signed(tmp_path: Path, after):
    log, key = tmp_path / "log.jsonl", tmp_path / "key.pem"
    signer = keys.generate()
    keys.save(key, signer, None)
    with subprocess.Popen([sys.executable, "-c", WRITER, log, key], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = -1
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged == after:
                writer.send_signal(signal.SIGKILL)
                break
    with ChainWriter(log, signer, "test") as chain:
        assert chain.recovery.cut_bytes == 0
    numbers: list[int] = []
    verify_chain(
        log, {signer.public_key.keyid}, on_record=lambda line: numbers.append(int(line.body.get("number", -1)))
    )
    assert [number for number in numbers if number >= 0][: acknowledged + 1] == list(range(acknowledged + 1))
