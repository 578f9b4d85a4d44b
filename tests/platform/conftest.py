"""Where the driver of a platform lies: it is shared with the script of the faults."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
