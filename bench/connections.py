"""The exporter's memory with many TLS clients: half-open handshakes, and then also idle connections.

python bench/connections.py        (a part of `make bench`)
"""

import socket
import ssl
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import trustme

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from footprint import memory_mib
from processes import free_port

CLIENTS = 512
MANIFESTS_MIB = 256


def first_bytes(context: ssl.SSLContext) -> bytes:
    """Return the first bytes that a TLS client sends."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def main() -> None:
    """Print the table."""
    ca, client = trustme.CA(), ssl.create_default_context()
    ca.configure_trust(client)
    cert = ca.issue_cert("localhost")
    hello = first_bytes(client)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cert.cert_chain_pems[0].write_to_path(str(folder / "cert"))
        cert.private_key_pem.write_to_path(str(folder / "key"))
        (folder / "web.yml").write_text("tls_server_config: {cert_file: cert, key_file: key}\n")
        port = free_port()
        address = f"--web.listen-address=127.0.0.1:{port}"
        command = [sys.executable, str(ROOT / "exporter.py"), "--demo", address, f"--web.config.file={folder}/web.yml"]
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        stack.callback(process.terminate)

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))

        def shake_hands() -> None:
            stack.enter_context(client.wrap_socket(connect(), server_hostname="localhost"))

        while True:
            with suppress(OSError):
                shake_hands()
                break
        rows = [("no clients", memory_mib(process.pid))]
        for _ in range(CLIENTS):
            connect().sendall(hello)
        shake_hands()
        rows.append((f"{CLIENTS} half-open handshakes", memory_mib(process.pid)))
        for _ in range(CLIENTS):
            shake_hands()
        rows.append((f"and {CLIENTS} idle TLS connections", memory_mib(process.pid)))
    print(f"| clients | MiB (the manifests allow {MANIFESTS_MIB}) |\n|---|---|")
    for name, mib in rows:
        print(f"| {name} | {mib:.0f} |")


if __name__ == "__main__":
    main()
