"""Mail by STARTTLS to a real server: encrypted and checked, or not sent at all."""

from __future__ import annotations

import ipaddress
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.receivers import Mails, free_port, smtp

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "canary-tls-password"
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA of the tests")])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA of our own (ca.pem) and a certificate for this machine (server.pem)."""
    folder, now = tmp_path_factory.mktemp("tls"), datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]

    def certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        local = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(NAME).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        made = made.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        made = made if ca else made.add_extension(local, critical=False)
        return made.sign(keys[0], hashes.SHA256())

    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ca.pem").write_bytes(certificate(NAME, keys[0], ca=True).public_bytes(pem))
    server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    own = certificate(server, keys[1], ca=False).public_bytes(pem)
    (folder / "server.pem").write_bytes(keys[1].private_bytes(pem, *plain) + own)
    return folder


@pytest.fixture
def secure(authority: Path) -> Iterator[Mails]:
    """A server that takes a login and mail after STARTTLS only."""
    mails = Mails(port=free_port())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem")
    controller = Controller(
        mails,
        hostname="127.0.0.1",
        port=mails.port,
        tls_context=context,
        require_starttls=True,
        authenticator=mails.authenticate,
        auth_required=True,
    )
    controller.start()
    try:
        yield mails
    finally:
        controller.stop()


def notify(port: int, tmp_path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """`notify --test`, as a person runs it."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "BACKUP_DIR": str(tmp_path / "backups"),
        "MAILTO": "one@example.com",
        "EMAIL_HOST": "localhost",
        "EMAIL_PORT": str(port),
        "EMAIL_USE_TLS": "true",
        "EMAIL_HOST_USER": "user@example.com",
        "EMAIL_HOST_PASSWORD": PASSWORD,
    }
    command = [sys.executable, str(ROOT / "entrypoint.py"), "notify", "--test"]
    return subprocess.run(command, env=environ | more, capture_output=True, text=True, timeout=100, check=False)


def test_a_trusted_server_gets_it(secure: Mails, authority: Path, tmp_path: Path) -> None:
    done = notify(secure.port, tmp_path, SSL_CERT_FILE=str(authority / "ca.pem"))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert len(secure.messages) == 1 and secure.logins == [("user@example.com", PASSWORD)]
    assert PASSWORD not in said


def test_one_whose_certificate_nobody_knows_gets_nothing(secure: Mails, tmp_path: Path) -> None:
    done = notify(secure.port, tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 62, said
    assert "certificate" in said.lower() and PASSWORD not in said
    assert secure.messages == [] and secure.logins == [], "no login before the certificate is judged"


def test_one_that_offers_no_encryption_gets_nothing(tmp_path: Path) -> None:
    """Somebody between us and the server may have taken the offer out."""
    with smtp() as mails:
        done = notify(mails.port, tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 62 and PASSWORD not in said, said
    assert mails.messages == []
