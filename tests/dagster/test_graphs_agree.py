"""dvc.yaml, the Dagster graph and each stage's declared code say what uae/pipeline/chain.py says."""

import ast
import inspect
from functools import cache
from pathlib import Path

import pytest
import yaml

from dagster_project.definitions import ROOT, defs
from dagster_project.source import SOURCE
from uae.pipeline.chain import CHAIN, upstream
from uae.pipeline.settings import load_settings
from uae.pipeline.stage import Stage
from uae.pipeline.workspace import ARTEFACTS

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
# Every stage stands on these, and no number depends on them. So no stage watches them.
EXEMPT = {
    "uae/__init__.py",
    "uae/io/errors.py",
    "uae/io/options.py",
    *(f"uae/pipeline/{name}.py" for name in ("settings", "shared_code", "stage", "workspace")),
}
# Not imported but run: the package stage builds the Bento as ``python -m deploy.build``, and the Bento serves deploy/service.py.
RUN_AS_A_PROCESS = {"package": "deploy/*.py"}

each_stage = pytest.mark.parametrize("stage", CHAIN, ids=lambda stage: stage.name)


def test_dvc_has_the_stages_of_the_chain_in_its_order():
    assert list(PIPELINE["stages"]) == [stage.name for stage in CHAIN]


@each_stage
def test_dvc_stage_equals_the_declared_one(stage: Stage):
    entry = PIPELINE["stages"][stage.name]
    source = ["${ingest.path}"] if stage.reads_source else []
    assert entry["cmd"] == f"uae {stage.name}"
    assert entry["desc"] == stage.summary
    assert entry["params"] == list(stage.params)
    assert entry["deps"] == [*source, *(ARTEFACTS[name] for name in stage.needs), *stage.code]
    assert set(entry) <= {"desc", "cmd", "params", "deps", "outs", "metrics", "plots"}


@each_stage
def test_dvc_outputs_are_the_declared_ones(stage: Stage):
    outputs = _outputs(PIPELINE["stages"][stage.name])
    assert set(outputs) == {ARTEFACTS[name] for name in stage.makes}
    for name in stage.makes:
        options = outputs[ARTEFACTS[name]]
        assert options.get("persist", False) == (name in stage.keeps), name
        # Reports are small and read by people: hashed by DVC, not kept by it.
        assert options.get("cache", True) == (name not in ("promotion", "gate_page")), name


def test_dvc_never_restores_a_promotion_from_its_run_cache():
    """DVC's run cache takes a stage whose uncached outputs are all metrics or plots; the registry has to be asked anew."""
    assert {"reports/promotion.json": {"cache": False}} in PIPELINE["stages"]["promote"]["outs"]


def test_the_source_that_dvc_watches_is_the_one_that_is_read():
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        deps = [dep.def_path for dep in repo.stage.load_one(path=str(ROOT / "dvc.yaml"), name="ingest").deps]
    assert load_settings(ROOT / "params.yaml").ingest.path in deps


def test_dagster_edges_are_those_of_the_chain():
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    edges = {name: {dep.asset_key.to_user_string() for dep in spec.deps} for name, spec in specs.items()}
    source = {stage.name: {SOURCE} if stage.reads_source else set() for stage in CHAIN}
    alone = {SOURCE: set(), "drift": set()}  # drift reads the service's log
    assert edges == alone | {stage.name: source[stage.name] | set(upstream(stage)) for stage in CHAIN}


@each_stage
def test_declared_code_exists(stage: Stage):
    assert [path for path in stage.code if not (ROOT / path).exists()] == []


@each_stage
def test_declared_code_covers_what_the_stage_imports(stage: Stage):
    imported = {module for module in _closure(stage) if module not in EXEMPT and not _is_room(module)}
    assert sorted(module for module in imported if not any(_covers(path, module) for path in stage.code)) == []


@each_stage
def test_a_stage_stands_on_its_own_file_and_on_no_other_stage(stage: Stage):
    stages = {module for module in _closure(stage) if module.startswith("uae/pipeline/stages/") and not _is_room(module)}
    assert stages == {f"uae/pipeline/stages/{stage.name}.py"}
    assert "uae/pipeline/chain.py" not in _closure(stage)


@each_stage
def test_declared_code_is_imported(stage: Stage):
    imported = {module for module in _closure(stage) if not _is_room(module)}
    assert [path for path in stage.code if not any(_covers(path, module) for module in imported)] == []


def _outputs(entry: dict) -> dict[str, dict]:
    """path -> options, over outs, metrics and plots."""
    outputs: dict[str, dict] = {}
    for item in (*entry.get("outs", ()), *entry.get("metrics", ()), *entry.get("plots", ())):
        outputs |= {item: {}} if isinstance(item, str) else item
    return outputs


def _covers(path: str, module: str) -> bool:
    return module == path or module.startswith(path + "/")


def _is_room(module: str) -> bool:
    return module.endswith("/__init__.py")


def _closure(stage: Stage) -> set[str]:
    """The stage's own file, and the project's files that it imports or runs, and what those import, at any level."""
    found: set[str] = set()
    waiting = {Path(inspect.getfile(stage.run)).relative_to(ROOT).as_posix()}
    if pattern := RUN_AS_A_PROCESS.get(stage.name):
        waiting |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
    while waiting:
        module = waiting.pop()
        found.add(module)
        found |= {path.relative_to(ROOT).as_posix() for path in [(ROOT / module).with_suffix(".html.j2")] if path.exists()}
        if module not in EXEMPT:
            waiting |= _imports_of_file(module) - found
    return found


@cache
def _imports_of_file(module: str) -> frozenset[str]:
    return frozenset(_imports(ast.parse((ROOT / module).read_text(encoding="utf-8"))))


def _imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here, and not followed"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = (_file(name) for name in names if name.split(".")[0] in ("uae", "deploy"))
    return {file for file in files if file is not None}


def _file(name: str) -> str | None:
    """The file of a dotted name; None for what is a name inside a module."""
    path = name.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if (ROOT / file).is_file()), None)
