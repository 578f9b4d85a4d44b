"""What an operator gets: the Bento by itself on an empty machine, and the files for containers, Kubernetes and Prometheus."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from tiny_releases import tiny_release

import deploy
from deploy.auth import ApiKeys
from deploy.build import build, pinned, requirements
from deploy.config import Config, read_config
from deploy.metrics import Metrics
from uae.io.errors import ArtefactError, ConfigError
from uae.pipeline.chain import STAGES
from uae.release.manifest import read_manifest
from uae.release.open import Release
from uae.serving.batching import Batch
from uae.serving.switch import Switch

DEPLOY = Path(deploy.__file__).parent
ROOT = DEPLOY.parent
DOCKERFILE = DEPLOY / "container" / "Dockerfile"
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml")
TORCH = {"torch", "transformers", "sentence-transformers"}
# uae.io.models fetches models, and uae.io.gguf converts them: serving imports both for a hash and never calls these.
NEVER_CALLED = {"gguf", "huggingface-hub"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_encoder) -> Path:
    return tiny_release(
        tmp_path_factory.mktemp("tiny"), tiny_encoder, ["The seal is torn.", "Keys hang in the lodge."], "a", "onnx"
    )


@pytest.fixture(scope="module")
def bento(tiny, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "bento"
    build(tiny, out, "uae-retriever", "v1")
    return out


def names(lines: list[str]) -> set[str]:
    return {line.partition("==")[0] for line in lines}


# The Bento


def test_requirements_are_exact_and_whole(bento):
    lines = (bento / "env" / "python" / "requirements.txt").read_text().split()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
    assert len(names(lines)) == len(lines)
    assert {"bentoml", "onnxruntime", "faiss-cpu", "tokenizers"} <= names(lines)
    assert not names(lines) & (TORCH | {"mlflow", "dvc", "dagster", "uae"})


def test_a_release_that_torch_serves_needs_torch(tmp_path, tiny_encoder):
    release = tiny_release(tmp_path, tiny_encoder, ["The seal is torn."], "a", "torch")
    assert names(pinned(requirements(read_manifest(release).needs_torch()))) > TORCH


def test_a_base_that_torch_serves_needs_torch(tiny):
    manifest = read_manifest(tiny)
    assert not TORCH & set(requirements(manifest.needs_torch()))
    dense = manifest.dense()
    base = dense.model_copy(update={"serving": dense.serving.model_copy(update={"backend": "torch"})})
    assert set(requirements(manifest.model_copy(update={"legs": manifest.legs | {"base": base}}).needs_torch())) > TORCH


def test_extras_and_markers_of_requirements_are_followed(tmp_path, monkeypatch):
    """A package that asks for one of its own extras (as typer[all] did), and for others only on another platform."""
    for name, needs in {
        "first": ["second[more]>=1", "absent; sys_platform == 'nowhere'"],
        "second": ["third; extra == 'more'", "fourth; extra == 'other'", "first"],
        "third": [],
        "fourth": [],
    }.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0+cpu", *(f"Requires-Dist: {need}" for need in needs)]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert pinned(["first"]) == ["first==1.0", "second==1.0", "third==1.0"]
    assert pinned(["second"]) == ["first==1.0", "second==1.0", "third==1.0"]  # by way of first
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        pinned(["absent"])


def test_everything_imported_by_the_code_inside_is_required(bento):
    """Imports inside functions too, for they are of the torch side: nothing of that is in the list for ONNX Runtime."""
    imported = {name for path in (bento / "src").rglob("*.py") for name in _imports(path)}
    of_module = importlib.metadata.packages_distributions()
    assert not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    ours = imported - set(sys.stdlib_module_names) - {"uae", "deploy"}
    distributions = {of_module[name][0].lower().replace("_", "-") for name in ours}
    assert distributions - NEVER_CALLED <= names(pinned(requirements(with_torch=True))) | {"bentoml"}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


def test_serving_imports_no_torch_where_onnx_serves(bento):
    code = """
import json, pathlib, sys
import deploy.service
from uae.release.open import Release
Release(pathlib.Path("release")).search(["keys"], 1)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=bento / "src", capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "sentence_transformers", "mlflow"} & set(json.loads(done.stdout.splitlines()[-1]))


def test_an_answered_request_leaves_nothing_waiting_in_bentomls_layers(bento):
    """A timer that ran on would keep the request's context, by thousands; what startup made is out of the collector's way."""
    code = """
import asyncio, gc, json
import httpx
from deploy.service import Retriever

async def main():
    app = Retriever.to_asgi(is_main=True)
    async with app.router.lifespan_context(app), httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://bento"
    ) as client:
        for _ in range(20):
            answered = await client.post("/v1/search", json={"query": "keys"})
            assert answered.status_code == 200, answered.text
        waiting = [each for each in gc.get_objects() if isinstance(each, asyncio.TimerHandle) and not each.cancelled()]
        print(json.dumps({"waiting": len(waiting), "frozen": gc.get_freeze_count(), "seen": len(gc.get_objects())}))

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=bento / "src", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"waiting"')
    ]  # between lines of the log
    assert found["waiting"] < 5
    assert found["frozen"] > 5 * found["seen"]


def test_only_what_serving_needs_is_inside(bento, tiny):
    inside = {path.relative_to(bento / "src").as_posix() for path in (bento / "src").rglob("*") if path.is_file()}
    code = {name for name in inside if not name.startswith(("release/", "deploy/page/"))}
    assert {name.rpartition("/")[0] for name in code} <= {
        *(
            "",
            "uae",
            "uae/io",
            "uae/measures",
            "uae/retrievers",
            "uae/index",
            "uae/release",
            "uae/release/collections",
            "uae/release/legs",
            "uae/serving",
            "uae/text",
            "deploy",
        ),
    }
    assert not code & {
        "uae/cli/main.py",
        "uae/pipeline/chain.py",
        "uae/release/build.py",
        "uae/release/build_dense.py",
        "uae/release/choose_form.py",
        "uae/retrievers/onnx_export.py",
        "deploy/build.py",
    }
    page = {path.relative_to(DEPLOY).as_posix() for path in (DEPLOY / "page").rglob("*") if path.is_file()}
    assert {name.removeprefix("deploy/") for name in inside if name.startswith("deploy/page/")} == page
    released = {path.relative_to(tiny).as_posix() for path in tiny.rglob("*") if path.is_file()}
    assert {name.removeprefix("release/") for name in inside if name.startswith("release/")} == released


def test_the_package_stage_depends_on_all_code_inside(bento):
    """Else a change of it would leave the old Bento standing."""
    code = STAGES["package"].code
    inside = [path.relative_to(bento / "src").as_posix() for path in (bento / "src").rglob("*.py")]
    missing = {name for name in inside if not any(name == each or name.startswith(f"{each}/") for each in code)}
    missing = {name for name in missing if not name.endswith("__init__.py")}  # one docstring each
    assert missing <= {"uae/io/errors.py"}


def test_nothing_is_pickled_and_no_path_of_this_machine_is_inside(bento, tiny):
    here = [str(path).encode() for path in (ROOT, tiny.parent, bento.parent, Path(sys.prefix))]
    for path in bento.rglob("*"):
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".pyc"}
        assert not path.is_symlink()
        if path.is_file():
            content = path.read_bytes()
            assert not [each for each in here if each in content], path
            assert not re.match(rb"\x80[\x02-\x05]", content), path  # how a pickle begins


def test_a_damaged_release_is_not_built(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "release")
    (tmp_path / "release" / "legs" / "dense" / "index.faiss").write_bytes(b"x")
    with pytest.raises(ArtefactError, match=r"index\.faiss"):
        build(tmp_path / "release", tmp_path / "bento", "uae-retriever", "v1")
    assert not (tmp_path / "bento").exists()


# Python tells of each connection and each file that is written; from there a file gathers it.
SPY = """
import os, sys
_own = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
def _tell(event, args):
    if event == "socket.connect":
        address = args[1]
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            os.write(_own, f"connects {{address}}\\n".encode())
    elif event == "socket.getaddrinfo" and args[0] not in (None, "127.0.0.1", "localhost", "0.0.0.0", b"0.0.0.0"):
        os.write(_own, f"asks for {{args[0]}}\\n".encode())
    elif event == "open" and args[2] & _WRITING and not isinstance(args[0], int):
        os.write(_own, f"writes {{os.path.abspath(os.fsdecode(args[0]))}}\\n".encode())
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "tempfile.mkdtemp", "tempfile.mkstemp"):
        os.write(_own, f"writes {{os.path.abspath(os.fsdecode(args[0]))}}\\n".encode())
sys.addaudithook(_tell)
"""


@pytest.fixture(scope="module")
def machine(bento, tmp_path_factory) -> Path:
    """The Python of a virtual environment with the Bento's requirements, and nothing else."""
    folder = tmp_path_factory.mktemp("machine")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    site = folder / "venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for line in (bento / "env" / "python" / "requirements.txt").read_text().split():
        distribution = importlib.metadata.distribution(line.partition("==")[0])
        for file in distribution.files:
            if file.parts[0] != ".." and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                (site / file).symlink_to(distribution.locate_file(file))
    (site / "spying.py").write_text(SPY.format(log=str(folder / "spied")))
    (site / "spying.pth").write_text("import spying\n")  # sitecustomize would be Debian's own
    return folder


def instruction(name: str) -> list[str]:
    """The arguments of all such instructions in the last stage of the Dockerfile."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    last = text[text.rindex("\nFROM ") :]
    return [line.partition(" ")[2].strip() for line in last.splitlines() if line.startswith(f"{name} ")]


def test_the_bento_serves_on_an_empty_machine_without_network(bento, machine, tiny):
    port = free_port()
    elsewhere = machine / "elsewhere"
    elsewhere.mkdir()
    python = str(machine / "venv" / "bin" / "python")
    environment = dict(pair.split("=", 1) for pair in instruction("ENV")[0].split())
    environment |= {name: value.replace("/tmp", str(elsewhere)) for name, value in environment.items()}
    environment |= {"TMPDIR": str(elsewhere), "PATH": "/usr/bin:/bin"}
    environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment["NO_PROXY"] = environment["no_proxy"] = "127.0.0.1"
    image = {"bentoml": [python, "-m", "bentoml"], "python": [python], "/bento": [str(bento)], "3000": [str(port)]}

    def here(words: str) -> list[str]:
        given = json.loads(words[words.index("[") :])
        return [part.replace(":3000", f":{port}") for word in given for part in image.get(word, [word])]

    plan = {
        "command": here(instruction("CMD")[0]), "healthcheck": here(instruction("HEALTHCHECK")[0]), "cwd": str(elsewhere),
        "environment": environment, "log": str(machine / "log"), "url": f"http://127.0.0.1:{port}",
        "body": {"query": "Where are the keys?", "k": 1},
    }  # fmt: skip
    alone = ["unshare", "-rn"] if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0 else []
    command = [*alone, python, str(Path(__file__).with_name("empty_machine.py")), json.dumps(plan)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    opened = Release(tiny, "cpu")
    (expected,) = opened.search(["Where are the keys?"], 1)
    assert reply["answer"]["release"] == opened.fingerprint
    assert reply["answer"]["results"][0]["passages"][0]["passage_id"] == expected[0].passage_id
    assert "<!doctype html>" in reply["page"].lower()
    told = set((machine / "spied").read_text().splitlines())
    assert not [line for line in told if not line.startswith("writes ")]
    # A read-only root file system would do: what is written lies under /tmp of the image.
    written = {line.removeprefix("writes ") for line in told} - {str(machine / "log"), "/dev/null"}
    assert written
    assert not [path for path in written if not path.startswith((str(elsewhere), "/dev/shm/"))]


# Containers


@pytest.mark.parametrize("name", ["Dockerfile", "follow.Dockerfile", "workflow.Dockerfile"])
def test_image_is_well_made(name):
    path = DEPLOY / "container" / name
    subprocess.run(["hadolint", path], check=True)
    assert re.findall(r"^FROM (\S+)", path.read_text(), re.M) == ["python:3.11-slim-bookworm"] * 2
    user = re.findall(r"^USER (\d+):(\d+)$", path.read_text(), re.M)
    assert user == [("10001", "10001")]
    assert path.read_text().index("\nUSER ") > path.read_text().rindex("\nFROM ")
    assert path.with_name(f"{name}.dockerignore").is_file()


def test_image_is_made_from_the_bentos_folder(bento):
    assert (bento / "Dockerfile").read_text() == DOCKERFILE.read_text()
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE.read_text(), re.M)
    assert copied == ["env/python/requirements.txt", "."]
    assert all((bento / name).exists() for name in copied)
    kept_out = (bento / ".dockerignore").read_text().split("\n")
    assert not [line for line in kept_out if line.startswith(("src", "env/python", "bento.yaml"))]


@pytest.mark.parametrize("name", ["follow", "workflow"])
def test_image_from_the_checkout_has_what_it_copies(name):
    kept = re.findall(r"^!(\S+)$", (DEPLOY / "container" / f"{name}.Dockerfile.dockerignore").read_text(), re.M)
    assert all((ROOT / name).exists() for name in kept)
    assert {"uae", "pyproject.toml", "requirements.lock", "README.md"} <= set(kept)


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())["services"]["retriever"]


def test_compose_file_fits_its_schema():
    path = DEPLOY / "container" / "compose.yaml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_composed_service_is_shut_in(compose):
    assert compose["read_only"] is True
    assert compose["cap_drop"] == ["ALL"]
    assert compose["security_opt"] == ["no-new-privileges:true"]
    assert compose["user"] == "10001:10001"
    assert all(volume["read_only"] for volume in compose["volumes"])
    limits = compose["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} == set(limits)
    assert compose["environment"]["UAE_THREADS"] == compose["environment"]["OMP_NUM_THREADS"] == limits["cpus"]
    assert compose["environment"]["UAE_KEYS_FILE"] == f"/run/secrets/{compose['secrets'][0]}"
    assert compose["ports"] == ["127.0.0.1:3000:3000"]


# Kubernetes


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


def resource(kind: str, name: str = "uae-retriever") -> dict:
    (found,) = [d for path in MANIFESTS for d in documents(path) if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_manifest_fits_its_schema(path, version):
    for document in documents(path):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_refuses_what_is_wrong():
    wrong = resource("Deployment")
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_all_manifests_but_examples_are_applied():
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in MANIFESTS if ".example." not in path.name]


@pytest.mark.parametrize("name", ["uae-retriever", "uae-follow"])
def test_pods_are_shut_in(name):
    pod = resource("Deployment", name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {"cpu", "memory"} == set(container["resources"]["requests"]) == set(container["resources"]["limits"])
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert resource("NetworkPolicy", name)["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert resource("NetworkPolicy", name)["spec"]["podSelector"] == resource("Deployment", name)["spec"]["selector"]


def test_service_rolls_without_a_gap():
    deployment = resource("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/livez", "liveness": "/livez", "readiness": "/readyz",
    }  # fmt: skip
    (port,) = container["ports"]
    assert (
        {probe["port"] for probe in probes.values()} == {port["name"]} == {resource("Service")["spec"]["ports"][0]["targetPort"]}
    )
    assert str(port["containerPort"]) in json.loads(instruction("CMD")[0])
    config, _ = read_config(resource("ConfigMap")["data"])
    stopping = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= stopping + config.body_seconds + config.request_seconds
    selector = deployment["spec"]["selector"]["matchLabels"]
    for labels in (
        deployment["spec"]["template"]["metadata"]["labels"], resource("Service")["spec"]["selector"],
        resource("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in pod["topologySpreadConstraints"]),
    ):  # fmt: skip
        assert labels == selector
    scaled = resource("HorizontalPodAutoscaler")["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    assert scaled["minReplicas"] > resource("PodDisruptionBudget")["spec"]["maxUnavailable"]


def test_settings_in_the_manifests_are_settings_of_the_service(compose):
    """A misspelt one would be passed over at run time, if it is like none that there is."""
    for data in (resource("ConfigMap")["data"], compose["environment"]):
        config, unknown = read_config(data)
        assert not unknown
        assert config.store == Path("/store")
        assert {name for name in data if not name.startswith("UAE_")} == {"OMP_NUM_THREADS"}
        assert len([name for name in data if name.startswith("UAE_")]) == len(config.model_fields_set)


def test_mounts_are_where_the_settings_look():
    config, _ = read_config(resource("ConfigMap")["data"])
    (container,) = resource("Deployment")["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["store"]["mountPath"] == str(config.store)
    assert mounts["store"]["readOnly"] is True
    assert config.keys_file.parent == Path(mounts["keys"]["mountPath"])
    assert config.keys_file.name in resource("Secret", "uae-keys")["stringData"]
    threads = config.threads * config.model_workers
    assert str(threads) == container["resources"]["limits"]["cpu"] == resource("ConfigMap")["data"]["OMP_NUM_THREADS"]


def test_arguments_of_follow_are_its_own():
    from typer.testing import CliRunner

    from uae.cli.main import app

    (container,) = resource("Deployment", "uae-follow")["spec"]["template"]["spec"]["containers"]
    text = (DEPLOY / "container" / "follow.Dockerfile").read_text()
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", text, re.M)[1])
    options = {word for word in container["args"] + json.loads(re.search(r"^CMD (.*)$", text, re.M)[1]) if word.startswith("--")}
    told = CliRunner().invoke(app, [*entry[1:], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert told.exit_code == 0
    assert all(option in told.output for option in options)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["args"][container["args"].index("--store") + 1] == mounts["store"]
    assert Path(container["args"][container["args"].index("--params") + 1]).parent == Path(mounts["params"])


def test_the_example_secret_holds_no_key_and_does_not_start_a_service(tmp_path):
    example = resource("Secret", "uae-keys")["stringData"]["keys"]
    assert example.startswith("REPLACE-THIS ")
    (tmp_path / "keys").write_text(example)
    with pytest.raises(ConfigError, match="line 1: the key is shorter"):
        ApiKeys(tmp_path / "keys")


# Prometheus


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    """Each series of the service and its labels; ``instance`` and the like are added by Prometheus."""
    metrics = Metrics()
    metrics.watch(Switch(lambda folder: None, 1.0), *[lambda: 0] * 3)
    metrics.answered("/v1/search", 200, 0.1)
    metrics.rejected("queue_full")
    metrics.batch(Batch(1, 1, [0.1], 0.1))
    found = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }
    # Without a release it has no sample.
    return found | {"uae_release_info": {"release", "model", "version", "backend"}}


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    return group["rules"]


def _selectors(expression: str) -> list[tuple[str, set[str]]]:
    """The series that an expression reads, each with the labels it is selected by; PromQL is parsed, not searched."""
    found = []

    def walk(node) -> None:
        if type(node).__name__ == "VectorSelector":
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        for name in ("expr", "lhs", "rhs", "vector_selector", "args", "param"):
            value = getattr(node, name, None)
            for each in value if isinstance(value, list) else [value] if value is not None else []:
                if type(each).__module__ == "promql_parser":
                    walk(each)

    walk(promql_parser.parse(expression))
    return found


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_alert_reads_series_that_the_service_has(rule, series):
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    selected = _selectors(rule["expr"])
    assert selected
    assert len(selected) == len(re.findall(r"\buae_\w+", rule["expr"]))
    for name, labels in selected:
        assert name in series
        assert labels <= series[name]


def test_reasons_that_alerts_count_are_given_by_the_service():
    code = "".join(path.read_text() for path in DEPLOY.glob("*.py"))
    reasons = {
        reason for rule in alerts() for found in re.findall(r'reason=~"([^"]+)"', rule["expr"]) for reason in found.split("|")
    }
    assert reasons
    assert all(re.search(rf'ApiError\(\s*\d+, "{reason}"', code) for reason in reasons)


def test_every_alert_says_what_to_do():
    docs = (ROOT / "docs" / "serving.md").read_text()
    told = set(re.findall(r"^\| `(Uae\w+)` \|", docs, re.M))
    assert told == {rule["alert"] for rule in alerts()}


def test_autoscaler_asks_for_metrics_that_the_adapter_makes_from_series(series):
    rules = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text())["rules"]
    metrics = resource("HorizontalPodAutoscaler")["spec"]["metrics"]
    asked = [metric["pods"]["metric"]["name"] for metric in metrics]
    assert asked == [rule["name"]["as"] for rule in rules] == ["uae_queue_texts", "uae_queue_finds"]
    docs = (ROOT / "docs" / "serving.md").read_text()
    (told,) = re.findall(r"^- \*\*Autoscaling\*\*.*?(?=^- )", docs, re.M | re.S)
    for name, rule in zip(asked, rules, strict=True):
        assert _selectors(rule["seriesQuery"]) == [(name, {"namespace", "pod"})]
        assert name in series
        assert f"`{name}`" in told
        filled = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'pod="x"')
        assert _selectors(filled) == [(name, {"pod"})]


# The docs


def test_docs_list_every_series(series):
    _, docs = (ROOT / "docs" / "serving.md").read_text().split("\n## Prometheus\n")
    rows = re.findall(r"^\| (`uae_.*?) \|", docs, re.M)
    told = {name for row in rows for name in re.findall(r"`(uae_\w+)`", row)}
    assert told == {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in series} - _without_total(series)


def _without_total(series: dict[str, set[str]]) -> set[str]:
    """A counter's time of creation is told under its name without _total."""
    return {name.removesuffix("_total") for name in series if name.endswith("_total")}


def test_docs_act_on_the_store_where_the_manifests_have_it_and_may_be_written_to():
    docs = (ROOT / "docs" / "serving.md").read_text()
    told = re.findall(r"^kubectl exec deploy/(\S+) -- uae release (\w+) --store (\S+)$", docs, re.M)
    assert {action for _, action, _ in told} == {"list", "rollback"}
    for name, _, store in told:
        (container,) = resource("Deployment", name)["spec"]["template"]["spec"]["containers"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == store]
        assert (mount["name"], mount.get("readOnly", False)) == ("store", False)
        assert container["args"][container["args"].index("--store") + 1] == store


def test_docs_list_every_setting_with_its_default():
    docs = (ROOT / "docs" / "serving.md").read_text()
    told = dict(re.findall(r"^\| `(UAE_\w+)` \| (.*?) \|", docs, re.M))
    expected = {f"UAE_{name.upper()}": _default(field.default) for name, field in Config.model_fields.items()}
    assert told == expected


def _default(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
