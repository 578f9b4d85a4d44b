"""Build a Bento of a release: ``python -m deploy.build --release DIR --out DIR --name NAME --version VERSION``."""

import argparse
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

_REQUIREMENTS = (
    "bentoml", "torch", "transformers", "sentence-transformers", "faiss-cpu", "pandas", "pyarrow", "numpy", "pydantic",
    "filelock", "tqdm",
)  # fmt: skip


def build(release: Path, out: Path, name: str, version: str) -> None:
    """Write the built Bento's folder to ``out``. Code, release and pinned requirements are inside; it needs no checkout."""
    with tempfile.TemporaryDirectory(prefix="bento-") as scratch:
        # BentoML reads its home at import: a store of our own keeps the build out of the user's.
        os.environ["BENTOML_HOME"] = str(Path(scratch) / "home")
        os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
        import bentoml

        import deploy
        import uae

        context = Path(scratch) / "context"
        ignore = shutil.ignore_patterns("__pycache__")
        for package in (uae, deploy):
            source = Path(package.__file__).parent
            shutil.copytree(source, context / source.name, ignore=ignore)
        shutil.copytree(release, context / "release")
        bento = bentoml.bentos.build(
            "deploy.service:Retriever",
            name=name,
            version=version,
            build_ctx=str(context),
            include=["uae/", "deploy/", "release/"],
            python={
                "packages": [f"{package}=={importlib.metadata.version(package).partition('+')[0]}" for package in _REQUIREMENTS],
                "lock_packages": False,
            },
        )
        shutil.copytree(bento.path, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", required=True)
    build(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
