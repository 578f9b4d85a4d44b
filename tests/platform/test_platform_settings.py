"""The platform's settings, before any server runs: Dagster takes them, the supervisor reads them, keys are their owner's."""

import configparser
import importlib
import os
import re
import stat
import subprocess

import dagster as dg
import pytest
import yaml

from deploy.platform.environment import PORTS, environment, read
from deploy.platform.up import HERE

pytest.importorskip("dagster_postgres", reason="needs the extra platform")

from dagster_project.storage import PatientPostgresStorage


@pytest.fixture
def variables(tmp_path):
    return environment(tmp_path, tmp_path / "project", free_ports=True)


def test_a_second_start_finds_the_same_ports_and_keys(variables, tmp_path):
    again = environment(tmp_path, tmp_path / "other", free_ports=True)
    assert again == variables | {"PLATFORM_PROJECT": str(tmp_path / "other"), "PYTHONPATH": str(tmp_path / "other")}
    assert len({variables[name] for name in PORTS}) == len(PORTS)


def test_keys_are_for_their_owner_alone_and_a_shell_can_read_them(variables, tmp_path):
    path = tmp_path / "platform.env"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert read(path) == variables
    said = subprocess.run(["sh", "-c", f". {path}; echo $DAGSTER_POSTGRES_URL"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == variables["DAGSTER_POSTGRES_URL"]


def test_the_supervisor_is_told_of_every_variable(variables):
    """It does not start where one is missing."""
    text = (HERE / "supervisord.conf").read_text(encoding="utf-8")
    named = set(re.findall(r"%\(ENV_(\w+)\)s", text))
    assert named - set(variables) == {"PLATFORM_POSTGRES", "PLATFORM_POSTGRES_USER"}  # known once the cluster is made
    config = configparser.RawConfigParser(inline_comment_prefixes=None)
    config.read_string(text)
    programs = {name.removeprefix("program:") for name in config.sections() if name.startswith("program:")}
    assert programs == {"postgres", "s3", "buckets", "mlflow", "code", "daemon", "webserver", "follow", "retriever"}
    assert all("127.0.0.1" in command for command in commands(config) if "port" in command)
    # Some say that they ended well where they did not.
    assert {name for name in programs if config[f"program:{name}"]["autorestart"] != "true"} == {"buckets"}


def commands(config) -> list[str]:
    return [config[name]["command"] for name in config.sections() if name.startswith("program:")]


def test_dagster_takes_its_settings(variables, tmp_path):
    settings = yaml.safe_load((HERE / "dagster.yaml").read_text(encoding="utf-8"))
    storage = settings.pop("storage")["custom"]
    assert storage["config"] == {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}
    assert getattr(importlib.import_module(storage["module"]), storage["class"]) is PatientPostgresStorage
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=settings) as found:
        monitored = found.run_monitoring_settings
        assert found.run_launcher.supports_check_run_worker_health
        assert found.get_concurrency_config().pool_config.default_pool_limit == 1
        assert found.get_concurrency_config().run_queue_config.max_concurrent_runs == 1
        # A run whose process died is out of the queue within two minutes, at whatever time it died.
        assert monitored["start_timeout_seconds"] + 2 * monitored["poll_interval_seconds"] <= 120
        assert monitored["free_slots_after_run_end_seconds"] + 2 * monitored["poll_interval_seconds"] <= 120
