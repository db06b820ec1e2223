"""A throwaway certificate for a server on loopback: EC P-256, signed by itself.

Rules:
- The certificate is its own CA: who trusts the file trusts this server and nothing else.
- It names 127.0.0.1, ::1 and localhost; nobody needs to turn verification off.
- The private key is in a file that only the owner reads.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from walarchiver.ports import Clock

_VALID_DAYS = 365
_ADDRESSES = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """Where the two files are; `ca_file` is what a client trusts and what the server shows."""

    ca_file: Path
    key_file: Path


def loopback_certificate(folder: Path, clock: Clock) -> ServerCertificate:
    """The certificate in `folder`, made now if there is none."""
    made = ServerCertificate(folder / "tls-ca.pem", folder / "tls-key.pem")
    if made.ca_file.exists():
        return made
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fd = os.open(made.key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(private)
    made.ca_file.write_bytes(_signed(key, clock).public_bytes(serialization.Encoding.PEM))
    return made


def _signed(key: ec.EllipticCurvePrivateKey, clock: Clock) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a loopback server of walarchiver")])
    now = datetime.datetime.fromtimestamp(clock.now_us() // 1_000_000, tz=datetime.UTC)
    names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(each)) for each in _ADDRESSES]
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([*names, x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
