"""The definitions where each step is a Kubernetes Job of its own. The code location on a cluster loads this module.

A step's pool says which machine it needs: ``deploy/kubernetes/workflow/steps.yaml`` has each pool's share of a pod.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster_k8s import k8s_job_executor

from dagster_project.definitions import ROOT, build
from dagster_project.pools import ACCELERATOR, CPU
from uae.io.errors import ConfigError

STEPS = ROOT / "deploy" / "kubernetes" / "workflow" / "steps.yaml"


def pods(path: Path) -> dict[str, dict[str, Any]]:
    """What a step's Job and pod get beside what all have, by pool.

    Raises:
        ConfigError: the file lacks a pool, or has one that is none.
    """
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or set(found) != {CPU, ACCELERATOR}:
        told = ", ".join(map(str, found)) if isinstance(found, dict) else repr(found)
        raise ConfigError(f"{path}: a section for each pool, {CPU} and {ACCELERATOR}, is wanted; it has {told}")
    return found


def by_step(definitions: dg.Definitions, each_pool: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pods of all steps of all jobs. Whatever joins a pool later gets its machine without another line."""
    steps = {
        op.name: op
        for job in definitions.resolve_all_job_defs()
        for op in job.all_node_defs
        if isinstance(op, dg.OpDefinition) and op.pool
    }
    return {name: dict(each_pool[op.pool]) for name, op in steps.items() if op.pool}


def one_job_a_step(steps: Mapping[str, Mapping[str, Any]]) -> dg.ExecutorDefinition:
    """One at a time in a run, because the steps share one folder and DVC's lock."""
    return k8s_job_executor.configured(
        {"max_concurrent": 1, "enable_owner_references": True, "per_step_k8s_config": dict(steps)}, name="one_job_a_step"
    )


defs = build(ROOT, executor=one_job_a_step(by_step(build(ROOT), pods(STEPS))))
