"""Run by test_ray.py as a process of its own, to be killed: ``python spread_labelling.py FOLDER MODEL ADDRESS``.

FOLDER holds the tables of ``labelling.write_corpus``. After the third batch it touches FOLDER/begun.
"""

import sys
from pathlib import Path

from labelling import run
from on_ray import asked, options

from uae.teacher.engines.spread import CausalTeachers


def main(folder: Path, model: Path, address: str) -> None:
    class Telling(CausalTeachers):
        def read_all(self, batches):
            for number, read in enumerate(super().read_all(batches)):
                if number == 3:
                    (folder / "begun").touch()
                yield read

    run(folder, asked(model, options(address=address), Telling), readings_per_part=30)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
