"""The workflow on Kubernetes: its manifests fit their schemas, and Dagster makes Jobs of runs and steps as they say."""

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import jsonschema
import kubernetes_validate
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.context.system import PlanData, PlanOrchestrationContext
from dagster._core.executor.init import InitExecutorContext
from dagster._core.executor.step_delegating import StepHandlerContext
from dagster._core.launcher import LaunchRunContext
from dagster._core.log_manager import DagsterLogManager
from dagster._core.system_config.objects import ResolvedRunConfig
from dagster._grpc.types import ExecuteStepArgs
from kubernetes_api import taking_jobs
from raycluster_schema import RAY_CLUSTER

import deploy
from uae.io.errors import ConfigError

pytest.importorskip("dagster_k8s", reason="needs the extra kubernetes")

from dagster_project.on_kubernetes import STEPS, defs, pods

KUBERNETES = Path(deploy.__file__).parent / "kubernetes"
WORKFLOW, RAY = KUBERNETES / "workflow", KUBERNETES / "ray"
NO_MANIFESTS = {"kustomization.yaml", "dagster.yaml", "workspace.yaml", "steps.yaml"}
MANIFESTS = sorted(path for folder in (WORKFLOW, RAY) for path in folder.glob("*.yaml") if path.name not in NO_MANIFESTS)
VERSIONS = ["1.31", kubernetes_validate.latest_version()]
ENVIRONMENT = {"DAGSTER_NAMESPACE": "retrieval", "DAGSTER_CURRENT_IMAGE": "registry/uae-workflow:v7"}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def resource(kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for path in MANIFESTS for d in documents(path) if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def pod_of(name: str) -> dict[str, Any]:
    return resource("Deployment", name)["spec"]["template"]["spec"]


def groups() -> list[dict[str, Any]]:
    spec = resource("RayCluster", "uae-ray")["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


# Manifests


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: f"{path.parent.name}/{path.name}")
@pytest.mark.parametrize("version", VERSIONS)
def test_manifest_fits_its_schema(path, version):
    for document in documents(path):
        if document["kind"] != "RayCluster":
            kubernetes_validate.validate(document, version, strict=True)
            continue
        jsonschema.validate(document, RAY_CLUSTER)
        for group in groups():
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, "spec": group["template"]["spec"]}
            kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        (("spec",), "autoscale", True),
        (("spec",), "rayVersion", 2.6),
        (("spec", "headGroupSpec", "rayStartParams"), "num-cpus", 0),
        (("spec", "authOptions"), "mode", "password"),
        (("spec", "workerGroupSpecs", 0), "minReplicas", -1),
    ],
)
def test_the_schema_of_a_raycluster_refuses_what_is_wrong(place, key, value):
    wrong = resource("RayCluster", "uae-ray")
    at = wrong
    for each in place:
        at = at[each]
    at[key] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, RAY_CLUSTER)


@pytest.mark.parametrize("folder", [WORKFLOW, RAY], ids=lambda folder: folder.name)
def test_all_manifests_but_examples_are_applied(folder):
    made = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    here = [path.name for path in MANIFESTS if path.parent == folder and ".example." not in path.name]
    assert sorted(made["resources"]) == here
    assert all((folder / name).is_file() for each in made.get("configMapGenerator", []) for name in each["files"])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which renders kustomizations without a cluster")
@pytest.mark.parametrize("folder", [WORKFLOW, RAY], ids=lambda folder: folder.name)
def test_the_image_of_a_kustomization_is_that_of_every_pod(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    rendered = list(yaml.safe_load_all(done.stdout))
    images = re.findall(r"^\s*(?:- )?image: (\S+)$", done.stdout, re.M)
    settings = {d["metadata"]["name"]: d["data"] for d in rendered if d["kind"] == "ConfigMap"}
    assert len(images) == {"workflow": 4, "ray": 2}[folder.name]
    assert set(images) == {"uae-workflow:v1"}
    if folder == WORKFLOW:
        assert settings["uae-workflow"]["DAGSTER_CURRENT_IMAGE"] == "uae-workflow:v1"
        assert settings["uae-dagster"] == {name: (WORKFLOW / name).read_text() for name in ("dagster.yaml", "workspace.yaml")}


def all_pods() -> dict[str, dict[str, Any]]:
    servers = {name: pod_of(name) for name in ("uae-code", "uae-webserver", "uae-daemon")}
    return servers | {group.get("groupName", "head"): group["template"]["spec"] for group in groups()}


@pytest.mark.parametrize("name", ["uae-code", "uae-webserver", "uae-daemon", "head", "gpu"])
def test_pods_are_shut_in(name):
    shut_in(all_pods()[name])
    assert all_pods()[name].get("serviceAccountName") == (
        "uae-dagster" if name in ("uae-webserver", "uae-daemon") else None
    )  # who starts and ends Jobs


def shut_in(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert ("serviceAccountName" in pod) == (pod.get("automountServiceAccountToken", True) is True)
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert {"cpu", "memory"} == set(requests) == set(limits) - {"nvidia.com/gpu"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}
    mounted = {mount["name"]: mount["mountPath"] for container in pod["containers"] for mount in container["volumeMounts"]}
    assert mounted["project"] == resource("ConfigMap", "uae-workflow")["data"]["PYTHONPATH"] == "/project"


def test_who_may_ask_finds_the_servers():
    workspace = yaml.safe_load((WORKFLOW / "workspace.yaml").read_text(encoding="utf-8"))
    (place,) = [each["grpc_server"] for each in workspace["load_from"]]
    (port,) = resource("Service", place["host"])["spec"]["ports"]
    (container,) = pod_of("uae-code")["containers"]
    assert port["port"] == place["port"] == container["ports"][0]["containerPort"] == container["livenessProbe"]["grpc"]["port"]
    assert container["command"][container["command"].index("-m") + 1] == "dagster_project.on_kubernetes"
    for name in ("uae-code", "uae-webserver"):
        (policy,) = resource("NetworkPolicy", name)["spec"]["ingress"]
        selector = resource("Service", name)["spec"]["selector"]
        assert resource("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"] == selector
        assert resource("Deployment", name)["spec"]["template"]["metadata"]["labels"] == selector
        assert [each["port"] for each in policy["ports"]] == [resource("Service", name)["spec"]["ports"][0]["targetPort"]]


def test_ray_is_the_one_that_the_lock_has_and_steps_find_it():
    cluster = resource("RayCluster", "uae-ray")
    assert cluster["spec"]["rayVersion"] == importlib.metadata.version("ray")
    settings = resource("ConfigMap", "uae-ray")["data"]
    (head,) = [group for group in groups() if "groupName" not in group]
    (client,) = [p["containerPort"] for p in head["template"]["spec"]["containers"][0]["ports"] if p["name"] == "client"]
    assert head["rayStartParams"]["ray-client-server-port"] == str(client)
    assert settings["RAY_ADDRESS"] == f"ray://{cluster['metadata']['name']}-head-svc:{client}"
    assert settings["RAY_AUTH_MODE"] == cluster["spec"]["authOptions"]["mode"] == "token"
    (policy,) = [rule for rule in resource("NetworkPolicy", "uae-ray")["spec"]["ingress"] if "ports" in rule]
    assert policy["ports"][0]["port"] == client


# What Dagster makes of it


@pytest.fixture
def kubernetes(tmp_path) -> Iterator[tuple[Path, list[tuple[str, dict[str, Any]]]]]:
    with taking_jobs(tmp_path / "kubeconfig") as taken:
        yield tmp_path / "kubeconfig", taken


@pytest.fixture
def instance(tmp_path, monkeypatch, kubernetes) -> Iterator[dg.DagsterInstance]:
    """With the cluster's own settings, but for where its database, its files and Kubernetes itself are."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    settings = yaml.safe_load((WORKFLOW / "dagster.yaml").read_text(encoding="utf-8"))
    on_one_machine = yaml.safe_load((KUBERNETES.parent / "platform" / "dagster.yaml").read_text(encoding="utf-8"))
    assert settings.pop("storage") == on_one_machine["storage"]  # both wait for their database
    assert "DAGSTER_POSTGRES_URL" in resource("Secret", "uae-workflow")["stringData"]
    assert settings["local_artifact_storage"]["config"]["base_dir"] == "/project/.dagster"
    for name in ("local_artifact_storage", "compute_logs"):
        settings.pop(name)
    settings["run_launcher"]["config"] |= {"load_incluster_config": False, "kubeconfig_file": str(kubernetes[0])}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=settings) as found:
        yield found


def test_dagster_takes_its_settings(instance):
    assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
    assert instance.run_monitoring_settings["max_resume_run_attempts"] == 0
    assert instance.run_launcher.supports_check_run_worker_health
    assert instance.run_launcher.service_account_name == resource("ServiceAccount", "uae-dagster")["metadata"]["name"]
    assert instance.run_launcher.dagster_home == pod_of("uae-daemon")["containers"][0]["env"][0]["value"]


def whole_chain() -> Any:
    repository = ReconstructableRepository.for_module("dagster_project.on_kubernetes", "defs", str(WORKFLOW.parents[2]))
    return repository.get_reconstructable_job("whole_chain")


def test_a_run_is_a_job_that_kubernetes_takes(instance, kubernetes):
    job = whole_chain()
    run = instance.create_run_for_job(job.get_definition(), job_code_origin=job.get_python_origin())
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    ((namespace, sent),) = kubernetes[1]
    assert namespace == "retrieval"
    pod = fits(sent)
    shut_in(pod)
    (container,) = pod["containers"]
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    assert "dagster_k8s" in container["args"][3]  # the settings of the instance come with it
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert pod["serviceAccountName"] == "uae-dagster"  # a run starts its steps


@pytest.mark.parametrize(("step", "pool"), [("ingest", "cpu"), ("train", "accelerator")])
def test_a_step_gets_the_machine_of_its_pool(instance, kubernetes, step, pool):
    job = whole_chain()
    definition = job.get_definition()
    assert {op.name: op.pool for op in definition.all_node_defs}[step] == pool
    plan = create_execution_plan(definition)
    run = instance.create_run_for_job(definition, job_code_origin=job.get_python_origin())
    resolved = ResolvedRunConfig.build(definition).execution.execution_engine_config
    made = InitExecutorContext(job, defs.executor, resolved, instance)
    executor = defs.executor.executor_creation_fn(made)
    assert executor._max_concurrent == 1
    context = StepHandlerContext(
        instance,
        PlanOrchestrationContext(
            PlanData(job, run, instance, plan), DagsterLogManager.create(loggers=[], dagster_run=run), executor, None
        ),
        plan.steps,
        ExecuteStepArgs(job.get_python_origin(), run.run_id, [step], print_serialized_events=False),
        run,
    )
    list(executor._step_handler.launch_step(context))
    ((_, sent),) = kubernetes[1]
    pod = fits(sent)
    assert not pod["automountServiceAccountToken"]  # a step has nothing to ask of Kubernetes
    shut_in({key: value for key, value in pod.items() if key != "serviceAccountName"})
    (container,) = pod["containers"]
    limits = pods(STEPS)[pool]["container_config"]["resources"]["limits"]
    assert container["resources"]["limits"] == limits
    assert ("nvidia.com/gpu" in limits) == (pool == "accelerator")
    assert ("nvidia.com/gpu.present" in pod.get("nodeSelector", {})) == (pool == "accelerator")
    assert ("/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}) == (pool == "accelerator")


def fits(job: dict[str, Any]) -> dict[str, Any]:
    """The pod of a Job, which fits Kubernetes' schema and names only what the manifests bring."""
    for version in VERSIONS:
        kubernetes_validate.validate(job, version, strict=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == ENVIRONMENT["DAGSTER_CURRENT_IMAGE"]
    assert container["workingDir"] == "/project"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["project"]["persistentVolumeClaim"]["claimName"] == "uae-project"
    assert resource("PersistentVolumeClaim", "uae-project")["spec"]["accessModes"] == ["ReadWriteMany"]
    taken = [each.get("configMapRef") or each["secretRef"] for each in container["envFrom"]]
    assert [each["name"] for each in taken if not each.get("optional")] == ["uae-workflow", "uae-workflow"]
    label = resource("NetworkPolicy", "uae-steps")["spec"]["podSelector"]["matchLabels"]
    assert label.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    (ray,) = [rule["from"] for rule in resource("NetworkPolicy", "uae-ray")["spec"]["ingress"] if "ports" in rule]
    assert ray[0]["podSelector"]["matchLabels"] == label
    token = {each["name"]: each for each in container["env"]}["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert token == {"name": "uae-ray", "key": "auth_token", "optional": True}
    return pod


def test_steps_of_a_pool_that_is_none_are_refused(tmp_path):
    (tmp_path / "steps.yaml").write_text("cpu: {}\ngpu: {}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"steps.yaml: a section for each pool, cpu and accelerator, is wanted; it has .*gpu"):
        pods(tmp_path / "steps.yaml")


def test_what_dagster_asks_of_kubernetes_it_may():
    """The calls in the client of dagster-k8s, against the rules of access.yaml."""
    import dagster_k8s.client

    code = Path(dagster_k8s.client.__file__).read_text(encoding="utf-8")
    asked = {
        (verb, kind, part)
        for verb, kind, part in re.findall(r"_api\.(create|delete|list|read)_namespaced_(job|pod|event)(_status|_log)?\(", code)
    }
    verbs = {"create": "create", "delete": "delete", "list": "list", "read": "get"}
    wanted = {(verbs[verb], f"{kind}s{part.replace('_', '/')}") for verb, kind, part in asked}
    rules = resource("Role", "uae-dagster")["rules"]
    assert wanted == {(verb, name) for rule in rules for name in rule["resources"] for verb in rule["verbs"]}
