"""Run by test_ray.py as a process of its own, to be killed: ``python spread_labelling.py FOLDER ADDRESS``.

FOLDER holds the tables of ``labelling.write_corpus``. With the fourth batch in hand it touches FOLDER/begun and waits
for its end.
"""

import signal
import sys
from pathlib import Path

from labelling import run
from on_ray import counting, options

from uae.teacher.engines.spread import TeacherPool


def main(folder: Path, address: str) -> None:
    class Telling(TeacherPool):
        def read_all(self, batches):
            for number, read in enumerate(super().read_all(batches)):
                if number == 3:
                    (folder / "begun").touch()
                    signal.pause()
                yield read

    run(folder, counting(options(address=address), Telling), readings_per_part=30)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
