"""Chains of X.509 certificates for signing: an authority of the tests' own, and an end-entity certificate."""

import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
KEYS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
}


class Signed(NamedTuple):
    """Files of a chain and its key, PEM."""

    chain: Path
    key: Path
    root: str
    """The authority's certificate, PEM."""


def make_chain(
    folder: Path, kind: str = "es256", *, days: tuple[int, int] = (-1, 365), alone: bool = False, usage: bool = True,
    password: bytes | None = None,
) -> Signed:  # fmt: skip
    """Write `chain.pem`, the end-entity certificate first, and `key.pem`.

    Args:
        kind: Kind of the end entity's key.
        days: When it begins and ends to be valid, days from now.
        alone: Whether the certificate signs itself.
        usage: Whether it may be used for signing documents.
        password: Password of the key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    above, key = ec.generate_private_key(ec.SECP256R1()), KEYS[kind]()
    root = _certificate("Tests' authority", above, "Tests' authority", above, (-2, 999), authority=True)
    leaf = _certificate("Tests' signer", key, *(("Tests' signer", key) if alone else ("Tests' authority", above)), days,
                        usage=usage)  # fmt: skip
    chain = _pem(leaf) + ("" if alone else _pem(root))
    (folder / "chain.pem").write_text(chain)
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    )
    return Signed(folder / "chain.pem", folder / "key.pem", _pem(root))


def _certificate(name, key, issuer, issuer_key, days, *, authority=False, usage=True):
    now = datetime.datetime.now(datetime.UTC)
    public = issuer_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name)).issuer_name(_name(issuer)).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY).not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.KeyUsage(not authority, *[False] * 4, authority, authority, False, False), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), False)
    )  # fmt: skip
    if usage and not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    hashed = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer_key, hashed)


def _name(name):
    given = {NameOID.ORGANIZATION_NAME: "Tests", NameOID.COMMON_NAME: name}
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in given.items()])


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
