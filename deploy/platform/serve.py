"""Serve from the platform's store: ``python -m deploy.platform.serve``.

It is the Bento that the chain last packaged, from a copy, because the chain replaces it. Before the first one, and until the next
start, it is the same service from the checkout. Which release is served is a matter of the store in both.
"""

import os
import shutil
from pathlib import Path


def main() -> None:
    packaged = Path("models/bento/bento")
    target = "deploy.service:Retriever"
    if packaged.is_dir():
        copy = Path(os.environ["PLATFORM"]) / "bento"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(packaged, copy)
        target = str(copy)
    os.environ["BENTOML_HOME"] = str(Path(os.environ["PLATFORM"]) / "bentoml")
    # The service refuses variables that are nearly its own.
    command = ["bentoml", "serve", target, "--host", "127.0.0.1", "--port", os.environ["PLATFORM_RETRIEVER_PORT"]]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
