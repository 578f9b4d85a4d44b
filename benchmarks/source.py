"""How long a look at a source takes, by its number of objects: the first one, one with nothing changed, and one after a change.

    python benchmarks/source.py [--objects 100000] [--changed 1000] [--repeats 5]

It makes a folder of small files and takes snapshots of it as the sensor does. The last line is JSON: medians in seconds.
``processor`` is the time of this process on a core: it hardly grows where others use the cores, too.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import uae.corpus.snapshot
from uae.corpus.snapshot import Snapshot, take_snapshot

FOLDERS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--changed", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options.objects, options.changed, options.repeats)))


def measure(folder: Path, objects: int, changed: int, repeats: int) -> dict[str, float]:
    source, memory = folder / "source", folder / "memory.parquet"
    for n in range(objects):
        place = source / f"{n % FOLDERS:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n:06d}.md").write_text(f"# Page {n}\n\nWhat the page {n} says.\n")
    settle()
    first, _, _ = timed(source, memory)
    unchanged, processor = [], []
    for _ in range(repeats):
        seconds, of_processor, found = timed(source, memory)
        assert found.read == 0, "nothing changed, and something was read"
        unchanged.append(seconds)
        processor.append(of_processor)
    after = []
    for turn in range(repeats):
        for n in range(changed):
            (source / f"{n % FOLDERS:03d}" / f"{n:06d}.md").write_text(f"# Page {n}\n\nWhat it says in turn {turn}.\n")
        settle()
        seconds, _, found = timed(source, memory)
        assert found.read == changed, f"{changed} changed, and {found.read} were read"
        after.append(seconds)
    return {
        "objects": objects,
        "first_s": round(first, 3),
        "unchanged_s": round(statistics.median(unchanged), 3),
        "unchanged_processor_s": round(statistics.median(processor), 3),
        "unchanged_worst_s": round(max(unchanged), 3),
        "changed": changed,
        "changed_s": round(statistics.median(after), 3),
    }


def settle() -> None:
    """What was written just now is read again at the next look, by design: wait until it is not just now any more."""
    time.sleep(uae.corpus.snapshot._TICK_S + 0.1)


def timed(source: Path, memory: Path) -> tuple[float, float, Snapshot]:
    start, of_processor = time.perf_counter(), time.process_time()
    found = take_snapshot(str(source), memory)
    assert found is not None
    return time.perf_counter() - start, time.process_time() - of_processor, found


if __name__ == "__main__":
    main()
