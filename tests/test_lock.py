"""One lock for every Python that the project takes: whichever reads it, no requirement of a pinned package is unpinned.

That wheels exist for each is asked of the package index by ``make check-lock``; here only metadata of what is installed is read.
"""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
PINNED = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_lock_names_no_place_but_the_project():
    """Its first lines are the command that made it."""
    (command,) = re.findall(r"^#    pip-compile .*$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.M)
    assert "--output-file=requirements.lock" in command


def test_the_project_takes_these_pythons_and_no_others():
    taken = SpecifierSet(PROJECT["requires-python"])
    assert [version for version in ("3.10", *PYTHONS, "3.14") if f"{version}.9" in taken] == list(PYTHONS)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_of_a_pinned_package_is_pinned(python):
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.9", "extra": ""}
    unmet = []
    for name in PINNED:
        if name == "torch":  # its wheels differ: those for GPUs require CUDA's libraries, which pip takes with it
            continue
        for text in importlib.metadata.requires(name) or ():
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate(environment):
                continue
            pinned = PINNED.get(canonicalize_name(wanted.name))
            if pinned is None or not wanted.specifier.contains(pinned, prereleases=True):
                unmet.append(f"{name} requires {wanted}, pinned is {pinned}")
    assert unmet == []


@pytest.mark.parametrize("python", PYTHONS)
def test_no_pinned_package_refuses_the_python(python):
    takes = {name: importlib.metadata.metadata(name).get("Requires-Python") for name in PINNED}
    assert [name for name, versions in takes.items() if versions and f"{python}.9" not in SpecifierSet(versions)] == []
