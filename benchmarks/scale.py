"""What happens when one machine is not enough, or one corpus too large: Ray, memory by stage, indexes, a vector database.

Each section is a script of its own beside this one, which can be run alone with options of its own. Its last line holds the keys
that it adds. So a section runs in a process of its own: what one leaves in memory must not count for the next.
Prints one JSON line last.

The defaults are sizes that one machine without an accelerator can do in one go. Larger ones are options:

python benchmarks/scale.py
python benchmarks/scale.py --sections memory,index --passages 10000 --passages 100000 --passages 1000000 --vectors 10000000
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

# section -> the file beside this one that measures it, and what it is always told
SECTIONS = {
    "ray": ("scale_ray", ["--tiny"]),
    "memory": ("scale_memory", []),
    "index": ("scale_index", []),
    "pgvector": ("vector_database", []),
    "pgvector_at_size": ("database_at_size", []),
}
PASSAGES = [10_000, 30_000, 100_000]
VECTORS = [100_000]
_HERE = Path(__file__).resolve().parent


def main(
    sections: Annotated[str, typer.Option(help=f"Which to measure, in this order: {','.join(SECTIONS)}.")] = ",".join(SECTIONS),
    passages: Annotated[list[int], typer.Option(help="Sizes of the section memory; may be repeated.")] = PASSAGES,
    vectors: Annotated[list[int], typer.Option(help="Sizes of the section index; may be repeated.")] = VECTORS,
    out: Annotated[Path, typer.Option(help="Where finished measurements of memory and index are kept.")] = Path("runs/scale"),
) -> None:
    chosen = [name for name in sections.split(",") if name]
    if unknown := [name for name in chosen if name not in SECTIONS]:
        raise typer.BadParameter(f"--sections: there is no {', '.join(unknown)}; the sections are {', '.join(SECTIONS)}")
    kept = ["--out", str(out)]
    more = {"memory": [*kept, *_sizes(passages)], "index": [*kept, *_sizes(vectors)], "pgvector_at_size": kept}
    found: dict[str, object] = {}
    for name in chosen:
        found |= _measured(name, more.get(name, []))
    match found:
        # A release's own index is built anew, so a database's is the one that ages.
        case {"index": dict(index), "pgvector_at_size": {"churn": churn}}:
            index["churn"] = churn
    print(json.dumps(found))


def _sizes(sizes: Sequence[int]) -> list[str]:
    return [part for size in sizes for part in ("--sizes", str(size))]


def _measured(section: str, more: Sequence[str]) -> dict[str, object]:
    """The last line that the section's own script prints."""
    name, always = SECTIONS[section]
    script = _HERE / f"{name}.py"
    lines: list[str] = []
    with subprocess.Popen([sys.executable, str(script), *always, *more], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", file=sys.stderr)
            lines.append(line)
    if process.returncode or not lines:
        raise SystemExit(f"section {section}: {script.name} ended with {process.returncode}")
    added: dict[str, object] = json.loads(lines[-1])
    return added


if __name__ == "__main__":
    typer.run(main)
