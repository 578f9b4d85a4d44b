"""How long a look at a source takes, by its number of objects: the first one, one with nothing changed, and one after a change.

    python benchmarks/source.py [--objects 100000] [--changed 1000] [--repeats 5] [--store s3://BUCKET/PREFIX [--keep]]

It makes a folder of small files and takes snapshots of it as the sensor does. The last line is JSON: medians in seconds, and the
``best`` of them. ``processor`` is the time of this process on a core: it hardly grows where others use the cores, too. ``walk``
is a plain walk with os.scandir and one stat a file, which no look can do without; ``times_walk`` compares the processor times.

With ``--store`` the objects are put under that prefix of the store that the environment names (AWS_ENDPOINT_URL and keys), and
are removed at the end. With ``--keep`` they stay, and the next call finds them there. Nothing is hashed there: the store tells an
ETag. ``walk`` is then the store's pages, asked for by signed addresses and not looked at: what it takes beside this process's own
time is the server and the wire. ``times_walk`` compares the times by the clock there.
"""

import argparse
import html
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session
import urllib3

import uae.corpus.snapshot
from uae.corpus.snapshot import Snapshot, take_snapshot

FOLDERS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--changed", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--store", help="s3://BUCKET/PREFIX, of an empty prefix")
    parser.add_argument("--keep", action="store_true", help="leave the objects in the store")
    options = parser.parse_args()
    if options.store:
        print(json.dumps(measure_store(options.store, options.objects, options.repeats, options.keep)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options.objects, options.changed, options.repeats)))


def measure_store(path: str, objects: int, repeats: int, keep: bool) -> dict[str, float]:
    from uae.corpus.objects import S3, filesystem

    store, root = filesystem(), path.removeprefix(S3).strip("/")
    for start in range(0, objects if listed(root) != objects else 0, 1000):
        names = range(start, min(start + 1000, objects))
        store.pipe({f"{root}/{n % FOLDERS:03d}/{n:06d}.md": f"# Page {n}\n".encode() for n in names})
    try:
        looks, pages = [], []
        for _ in range(repeats):  # by turns: other load meets both alike
            looks.append(both_times(lambda: seen(path, objects)))
            pages.append(both_times(lambda: listed(root)))
        return {"objects": objects, **told("look", looks), **told("walk", pages), **compared(looks, pages, 0)}
    finally:
        if not keep:
            store.rm(root, recursive=True)


def seen(path: str, objects: int) -> None:
    found = take_snapshot(path, Path("unused"))
    assert found is not None
    assert len(found.contents) == objects, f"of {objects} objects {len(found.contents)} were seen"


def listed(root: str) -> int:
    """Objects in the pages of a listing that nobody looks at."""
    bucket, _, prefix = root.partition("/")
    config = botocore.config.Config(signature_version="s3v4")
    client, pool = botocore.session.get_session().create_client("s3", config=config), urllib3.PoolManager()
    asked = {"Bucket": bucket, "Prefix": f"{prefix}/"}
    number = 0
    while True:
        reply = pool.request("GET", client.generate_presigned_url("list_objects_v2", Params=asked))
        page = reply.data
        if reply.status != 200:
            raise SystemExit(f"the store answers {reply.status}: {page[:300]!r}")
        number += page.count(b"<Key>")
        token = re.search(rb"<NextContinuationToken>(.*?)</NextContinuationToken>", page)
        if token is None:
            return number
        asked["ContinuationToken"] = html.unescape(token[1].decode())


def walked(root: Path) -> int:
    """Files below, each asked for its status once."""
    number, left = 0, [os.fsencode(root)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                else:
                    entry.stat()
                    number += 1
    return number


def both_times(action: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of this process on a core."""
    start, of_processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - start, time.process_time() - of_processor


def told(name: str, times: list[tuple[float, float]]) -> dict[str, float]:
    clock, processor = ([each[side] for each in times] for side in (0, 1))
    return {
        f"{name}_s": round(statistics.median(clock), 3),
        f"{name}_best_s": round(min(clock), 3),
        f"{name}_processor_s": round(statistics.median(processor), 3),
    }


def compared(looks: list[tuple[float, float]], walks: list[tuple[float, float]], side: int) -> dict[str, float]:
    return {"times_walk": round(statistics.median(one[side] / other[side] for one, other in zip(looks, walks, strict=True)), 2)}


def measure(folder: Path, objects: int, changed: int, repeats: int) -> dict[str, float]:
    source, memory = folder / "source", folder / "memory.parquet"
    for n in range(objects):
        place = source / f"{n % FOLDERS:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{n:06d}.md").write_text(f"# Page {n}\n\nWhat the page {n} says.\n")
    settle()
    first, _, _ = timed(source, memory)
    unchanged, walks = [], []
    for _ in range(repeats):
        seconds, of_processor, found = timed(source, memory)
        assert found.read == 0, "nothing changed, and something was read"
        unchanged.append((seconds, of_processor))
        walks.append(both_times(lambda: walked(source)))
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
        **told("unchanged", unchanged),
        "unchanged_worst_s": round(max(unchanged)[0], 3),
        **told("walk", walks),
        **compared(unchanged, walks, 1),
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
