"""What happens when one machine is not enough, or one corpus too large: Ray, memory by stage, indexes, a vector database.

Each section is a script of its own beside this one, which can be run alone with options of its own. Its last line holds the keys
that it adds. So a section runs in a process of its own: what one leaves in memory must not count for the next.
Prints one JSON line last.

python benchmarks/scale.py --sections ray,memory,index,pgvector
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

# section -> the file beside this one that measures it
SECTIONS = {
    "ray": "scale_ray",
    "memory": "scale_memory",
    "index": "scale_index",
    "pgvector": "vector_database",
}
_HERE = Path(__file__).resolve().parent


def main(
    sections: Annotated[str, typer.Option(help=f"Which to measure, in this order: {','.join(SECTIONS)}.")] = ",".join(SECTIONS),
) -> None:
    chosen = [name for name in sections.split(",") if name]
    if unknown := [name for name in chosen if name not in SECTIONS]:
        raise typer.BadParameter(f"--sections: there is no {', '.join(unknown)}; the sections are {', '.join(SECTIONS)}")
    found: dict[str, object] = {}
    for name in chosen:
        found |= _measured(name)
    print(json.dumps(found))


def _measured(section: str) -> dict[str, object]:
    """The last line that the section's own script prints."""
    script = _HERE / f"{SECTIONS[section]}.py"
    lines: list[str] = []
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
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
