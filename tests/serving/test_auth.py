"""Keys: who gets in, how a changed file takes effect, and that comparing tells nothing."""

import hmac
import json

import pytest

import deploy.auth
from deploy.auth import ApiKeys
from uae.io.errors import ConfigError


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(deploy.auth, "_CHECK_EVERY_S", -1.0)


@pytest.fixture
def keys_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# the page\nfirst-key-for-tests  # of Lunde\n\nsecond-key-for-tests\n")
    return path


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, False),
        ({"Authorization": "Bearer first-key-for-tests"}, True),
        ({"Authorization": "bearer second-key-for-tests"}, True),
        ({"X-API-Key": "second-key-for-tests"}, True),
        ({"X-API-Key": "wrong"}, False),
        ({"X-API-Key": ""}, False),
        ({"Authorization": "Bearer "}, False),
        ({"Authorization": "Basic first-key-for-tests"}, False),
        ({"Authorization": "Bearer first-key-for-tests  # of Lunde"}, False),
        ({"X-API-Key": "first-key-for-tests\xff"}, False),
    ],
)
def test_a_key_is_needed_under_v1(serve, keys_file, headers, allowed):
    client = serve(keys_file=keys_file)
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    for method, path, body in (
        ("POST", "/v1/search", {"query": "keys"}),
        ("GET", "/v1/release", None),
        ("GET", "/v1/nothing", None),
    ):
        reply = client.request(method, path, json=body, headers=sent)
        assert (reply.status_code == 401) is not allowed
    if not allowed:
        assert reply.json()["error"]["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "uae_auth_failures_total 3.0" in client.get("/metrics").text
        assert "key" not in client.lines.text.replace("invalid_api_key", "").replace("API keys are valid", "")


def test_page_and_documents_are_open_and_metrics_if_wanted(serve, keys_file):
    client = serve(keys_file=keys_file)
    assert {client.get(path).status_code for path in ("/openapi.json", "/docs", "/metrics")} == {200}
    closed = serve(keys_file=keys_file, metrics_open=False)
    assert closed.get("/metrics").status_code == 401
    assert closed.get("/metrics%0A").status_code == 404  # the route would take it, the guard did not know it
    assert closed.get("/metrics", headers={"X-API-Key": "first-key-for-tests"}).status_code == 200
    security = client.get("/openapi.json").json()["paths"]["/v1/search"]["post"]["security"]
    assert len(security) == 2


def test_a_changed_file_counts_at_once_and_a_missing_one_changes_nothing(keys_file):
    keys = ApiKeys(keys_file)
    keys_file.write_text("third-key-for-tests\n")
    assert keys.allows(b"third-key-for-tests")
    assert not keys.allows(b"first-key-for-tests")
    keys_file.unlink()
    assert keys.allows(b"third-key-for-tests")
    assert not keys.allows(b"")
    keys_file.write_text("# nobody\n")
    assert not keys.allows(b"third-key-for-tests")
    assert not keys.allows(b"")


def test_every_key_is_compared_in_constant_time_whichever_fits(keys_file, monkeypatch):
    keys = ApiKeys(keys_file)
    compared = []

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    compare = hmac.compare_digest
    monkeypatch.setattr(deploy.auth.hmac, "compare_digest", spy)
    for given in (b"first-key-for-tests", b"second-key-for-tests", b"x", b"x" * 10_000):
        keys.allows(given)
    assert compared == [(32, 32)] * 8


def test_only_a_mark_after_white_space_begins_a_comment(tmp_path):
    path = tmp_path / "keys"
    path.write_text(
        "a#Zk3!long-secret-one\n#a-line-that-is-no-key-at-all\n  # nor this one, that is longer\nkey-number-two-##\t#x\n"
    )
    keys = ApiKeys(path)
    assert keys.allows(b"a#Zk3!long-secret-one")
    assert keys.allows(b"key-number-two-##")
    assert not keys.allows(b"a")
    assert not keys.allows(b"#a-line-that-is-no-key-at-all")


def test_a_short_key_is_refused_with_its_file_and_line_and_not_shown(serve, keys_file):
    keys = ApiKeys(keys_file)
    keys_file.write_text("# ours\nsecond-key-for-tests\nonly-15-letters\n")
    assert not keys.allows(b"only-15-letters")
    assert not keys.allows(b"first-key-for-tests")  # taken out, whatever else is wrong with the file
    assert keys.allows(b"second-key-for-tests")
    with pytest.raises(ConfigError, match=r"UAE_KEYS_FILE: .*keys, line 3: the key is shorter than 16 characters") as refused:
        serve(keys_file=keys_file)
    assert "only-15" not in str(refused.value)


def test_a_service_without_keys_says_so_loudly(serve, keys_file):
    (line,) = [line for line in map(json.loads, serve().lines.text.splitlines()) if "no API keys" in line["event"]]
    assert line["level"] == "warning"
    assert "no API keys" not in serve(keys_file=keys_file).lines.text


def test_a_file_that_cannot_be_read_fails_at_the_start(serve, tmp_path):
    with pytest.raises(ConfigError, match=r"UAE_KEYS_FILE: .*nowhere cannot be read"):
        serve(keys_file=tmp_path / "nowhere")
