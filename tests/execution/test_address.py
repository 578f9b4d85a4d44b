"""An address of no cluster is an error within seconds. Ray itself would wait for minutes."""

import socket

import pytest
from on_ray import options

from uae.execution.ray import connect
from uae.io.errors import ExecutionError

ray = pytest.importorskip("ray", reason="needs ray: pip install '.[ray]'")


def test_an_address_nobody_answers_at_is_named():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(ExecutionError, match=f"execution.address: {address}: nobody answers there") as caught:
        connect(options(address=address))
    assert caught.value.transient
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["no port", "127.0.0.1", "127.0.0.1:99999999"])
def test_an_address_that_is_none_is_named(address):
    with pytest.raises(ExecutionError, match=f"execution.address: {address}: nobody answers there"):
        connect(options(address=address))


def test_something_else_that_answers_is_no_cluster():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ExecutionError, match=f"{address}: .*"):
            connect(options(address=address, stalled_s=4))
    assert not ray.is_initialized()


@pytest.mark.parametrize("died", [1, 3])
def test_a_cluster_that_could_start_nothing_for_a_client_is_asked_again(monkeypatch, died):
    """Ray's head starts a process for each client. It says ConnectionAbortedError where that one dies at once."""
    asked = []

    def init(**settings):
        asked.append(settings["address"])
        if len(asked) <= died:
            raise ConnectionAbortedError("Initialization failure from server")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr("uae.execution.ray._require_answer", lambda address, seconds: None)
    if died == 1:
        assert connect(options(address="ray://head:10001")) is ray
    else:
        with pytest.raises(ExecutionError, match="ray://head:10001 could start nothing for this client, 3 times") as caught:
            connect(options(address="ray://head:10001"))
        assert caught.value.transient
    assert len(asked) == min(died + 1, 3)
