"""The long campaign: `make torture`, or `python -m tests.torture [campaign ...]` with TORTURE_SCALE and TORTURE_SEED.

Prints a table, and writes docs/reliability.md when every campaign was run. Exits with 1 where a trial was bad.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))


def main(names: list[str]) -> int:
    scale, seed = float(os.environ.get("TORTURE_SCALE", "1")), int(os.environ.get("TORTURE_SEED", "0"))
    # As in the tests, and before torch is imported: no hub, one thread, a cache of its own.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    from tests.torture import report

    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        begin = time.monotonic()
        results = report.run_campaigns(names, scale, seed, Path(folder))
    if not names:
        report.write_page(ROOT / "docs/reliability.md", results, scale, seed, time.monotonic() - begin)
    return 1 if any(row.problems for result in results for row in result.rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
