"""nginx with our configuration in front of the service: what the service leaves to a proxy, the proxy does."""

import contextlib
import datetime
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from over_http import service
from ports import free_port

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "retriever.conf"
HOST = "search.example"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx to check the configuration with: apt-get install nginx")
# An answer far larger than all buffers on the way.
PASSAGES = [{"doc_id": "d", "title": "t", "text": "seal " + "x" * 12_000_000}, {"doc_id": "e", "title": "t", "text": "ice"}]


def certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1)
    )
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False).sign(key, hashes.SHA256())
    (folder / "fullchain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def write(folder: Path, upstream: str, port: int, **changes: str) -> list[str]:
    """The configuration with a certificate, on a free port, in a folder of its own. Returns nginx's command.

    Args:
        changes: a directive's name with another value.
    """
    certificate(folder)
    text = CONFIG.read_text(encoding="utf-8")
    replaced = {"server 127.0.0.1:3000;": f"server {upstream};", "listen 443": f"listen 127.0.0.1:{port}"}
    replaced |= {"/etc/nginx/tls": str(folder), "/var/log/nginx": str(folder)}
    for name, value in changes.items():
        (line,) = [each.strip() for each in text.splitlines() if each.strip().startswith(f"{name} ")]
        replaced[line.partition(";")[0] + ";"] = f"{name} {value};"
    for old, new in replaced.items():
        assert old in text, old
        text = text.replace(old, new)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "retriever.conf").write_text(text)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{ worker_connections 64; }}\nhttp {{ access_log off; {paths} include {folder}/retriever.conf; }}\n"
    )
    return [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


@contextlib.contextmanager
def in_front_of(url: str, folder: Path, **changes: str) -> Iterator[int]:
    """nginx's port."""
    port = free_port()
    server = subprocess.Popen(write(folder, urlsplit(url).netloc, port, **changes))
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                break
            assert server.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def front(tmp_path):
    """A service and nginx before it, with shorter times: (the service's address, nginx's port)."""
    folder = tmp_path / "nginx"
    folder.mkdir()
    with (
        service(tmp_path, PASSAGES, base=False) as url,
        in_front_of(url, folder, send_timeout="1s", client_header_timeout="1s", client_body_timeout="1s") as port,
    ):
        yield url, port


def connect(port: int, name: str = HOST, buffer: int | None = None) -> ssl.SSLSocket:
    plain = socket.socket()
    if buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    plain.settimeout(20)
    plain.connect(("127.0.0.1", port))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain, server_hostname=name)


def search_bytes(query: str = "ice", host: str = HOST) -> bytes:
    body = json.dumps({"query": query, "k": 1}).encode()
    head = f"POST /v1/search HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def read(connection: ssl.SSLSocket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while part := connection.recv(65536):
            answer += part
            if b"\r\n\r\n" in answer and answer.count(b"}") > 1:
                break
    return answer


def read_all(connection: ssl.SSLSocket) -> int:
    """Bytes up to the connection's end, whichever way it ends."""
    size = 0
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while part := connection.recv(1 << 20):
            size += len(part)
    return size


def test_nginx_takes_the_configuration_as_it_stands(tmp_path):
    command = write(tmp_path, "127.0.0.1:3000", 44443)
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_what_is_asked_arrives_and_what_is_not_for_callers_does_not(front):
    _, port = front
    base = f"https://127.0.0.1:{port}"
    with httpx.Client(verify=False, base_url=base, headers={"Host": HOST}, timeout=30) as client:
        extensions = {"sni_hostname": HOST}
        reply = client.post(
            "/v1/search", json={"query": "ice", "k": 1}, extensions=extensions, headers={"X-Request-Id": "mine-1"}
        )
        assert reply.json()["results"][0]["passages"][0]["doc_id"] == "e"
        assert reply.headers["x-request-id"] == "mine-1"
        assert client.get("/metrics", extensions=extensions).status_code == 404
        reply = client.post("/v1/search", content=b" " * 8_000_001, extensions=extensions)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")


def test_another_host_is_refused(front):
    _, port = front
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(port, "elsewhere.example")
    with connect(port) as connection:
        connection.sendall(search_bytes(host="elsewhere.example"))
        assert connection.recv(65536).split()[1] == b"421"


def test_slow_heads_and_slow_bodies_never_reach_the_service(front):
    url, port = front
    for sent in (b"POST /v1/search HTTP/1.1\r\nHost: sea", search_bytes()[:-5]):
        with connect(port) as connection:
            connection.sendall(sent)
            answer = read(connection)
            assert not answer or answer.split()[1] == b"408"
    assert "slow_body" not in httpx.get(f"{url}/metrics").text


def test_a_reader_that_stops_holds_nothing_in_the_service_and_loses_its_connection(front):
    url, port = front
    with connect(port, buffer=4096) as connection:
        connection.sendall(search_bytes("seal"))
        deadline = time.monotonic() + 20
        while 'uae_request_seconds_count{route="/v1/search",status="200"} 1.0' not in (told := httpx.get(f"{url}/metrics").text):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "\nuae_unsent_bytes 0.0\n" in told  # nginx has taken all of it
        assert "slow_reader" not in told
        time.sleep(2.5)
        assert read_all(connection) < 12_000_000
