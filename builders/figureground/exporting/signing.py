"""Signs exported images with C2PA: a manifest in the file says that the image was generated, and with which software.

Everything is checked without a network. `c2pa` and `cryptography` are imported when they are needed (extra `sign`).
"""

from __future__ import annotations

import datetime
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from figureground.core.errors import FiguregroundError, printable
from figureground.core.extras import hint
from figureground.core.files import FileError, read_bytes
from figureground.core.owned import GENERATOR
from figureground.core.version import VERSION
from figureground.sources import marks
from figureground.sources.images import encode, open_stored

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

MIME = {"jpg": "image/jpeg", "webp": "image/webp", "png": "image/png"}
"""Types of image files, by image format."""
MAX_PEM = 2**20
"""Maximum size of a certificate or key, bytes."""
MIN_RSA_BITS = 2048
"""Least length of an RSA key that C2PA allows."""
_ADVICE = (
    "The certificate must allow signing: key usage digitalSignature, and extended key usage such as emailProtection"
)


class SigningError(FiguregroundError):
    """Raised for a certificate or key that can't sign."""


@dataclass(frozen=True)
class Signing:
    """Certificate and key that images are signed with.

    Args:
        certificate: PEM file of the certificate chain, the end entity's certificate first.
        key: PEM file of its private key, not encrypted.
        timestamp_url: A time-stamping service (RFC 3161), which is asked for each image; None for no time stamps.
    """

    certificate: Path
    key: Path
    timestamp_url: str | None = None


class ImageSigner:
    """Signs images with one certificate.

    Args:
        signing: Files of certificate and key.
        image_format: `jpg`, `webp` or `png`.

    Raises:
        SigningError: A file can't be read, the certificate isn't valid now or can't be used, the key doesn't belong to
            it, or `c2pa` isn't installed.
    """

    def __init__(self, signing: Signing, image_format: str):
        try:
            import c2pa
            import cryptography  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise SigningError(
                f"--sign needs c2pa-python, which can't be imported ({error}): {hint('c2pa')}."
            ) from error
        chain, key = _read_pem(signing.certificate), _read_pem(signing.key)
        algorithm = _check_key(signing, chain, key)
        self.fingerprint = hashlib.sha256(chain).hexdigest()
        """SHA-256 of the certificate's file."""
        self.signing = signing
        self._c2pa, self._mime = c2pa, MIME[image_format]
        self._context = c2pa.Context(c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}}))
        url = signing.timestamp_url
        try:
            info = c2pa.C2paSignerInfo(getattr(c2pa.C2paSigningAlg, algorithm), chain, key, url)
            self._signer = c2pa.Signer.from_info(info)
        except Exception as error:  # the library raises many kinds of errors
            raise SigningError(f"{printable(signing.certificate)} can't be used for signing: {error}.") from error
        self.sign(encode(Image.new("RGB", (16, 16)), image_format), "test", marks.GENERATED)

    def sign(self, data: bytes, title: str, source_type: str) -> bytes:
        """Return an image file with a signed manifest; its pixels and its XMP stay.

        Args:
            data: The image file.
            title: Its title in the manifest.
            source_type: IPTC's digital source type, one of `sources.marks`.

        Raises:
            SigningError: The certificate can't be used, or the time-stamping service doesn't answer.
        """
        software = {"name": GENERATOR, "version": VERSION}
        action = {"action": "c2pa.created", "digitalSourceType": source_type, "softwareAgent": software}
        manifest = {
            "claim_generator_info": [software], "title": title, "format": self._mime,
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }  # fmt: skip
        signed = io.BytesIO()
        try:
            with self._c2pa.Builder(manifest, self._context) as builder:
                builder.sign(self._signer, self._mime, io.BytesIO(data), signed)
        except Exception as error:  # the library raises many kinds
            url = self.signing.timestamp_url
            hint = f" Time stamps are requested from {printable(url)}." if url else ""
            raise SigningError(
                f"{printable(self.signing.certificate)}: signing {title} failed: {error}. {_ADVICE}.{hint}"
            ) from error
        return signed.getvalue()


def source_type_of(data: bytes, guided: bool) -> str:
    """Return the digital source type that an image states, or the one that its origin has."""
    stated = marks.read_source_type(open_stored(data))
    return stated or (marks.COMPOSITE if guided else marks.GENERATED)


def _read_pem(path: Path) -> bytes:
    try:
        return read_bytes(path, max_bytes=MAX_PEM)
    except FileError as error:
        raise SigningError(str(error)) from None
    except OSError as error:
        raise SigningError(f"{printable(path)} can't be read: {error.strerror or error}.") from None


def _check_key(signing: Signing, chain: bytes, key: bytes) -> str:
    """Return the name of the signing algorithm, after checks of what the library reports too vaguely or not at all."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    certificate_file, key_file = printable(signing.certificate), printable(signing.key)
    try:
        certificates: Sequence[Certificate] = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise SigningError(f"{certificate_file} holds no certificate chain in PEM ({error}).") from None
    try:
        private_key: Any = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise SigningError(f"{key_file} is encrypted. Decrypt it: openssl pkey -in {key_file} -out FILE.") from None
    except ValueError as error:
        raise SigningError(f"{key_file} holds no private key in PEM ({error}).") from None
    first = certificates[0]
    owners = [n for n, certificate in enumerate(certificates) if certificate.public_key() == private_key.public_key()]
    if 0 not in owners:
        order = (
            " It belongs to a later certificate of the chain; put the certificate that the key belongs to first."
            if owners
            else ""
        )
        raise SigningError(
            f"{key_file} isn't the key of {certificate_file}, whose first certificate is {_describe(first)}.{order}"
        )
    now = datetime.datetime.now(datetime.UTC)
    for certificate in certificates:
        if now > certificate.not_valid_after_utc:
            raise SigningError(
                f"{certificate_file}: a certificate, {_describe(certificate)}, "
                f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}. Renew it."
            )
        if now < certificate.not_valid_before_utc:
            raise SigningError(
                f"{certificate_file}: a certificate, {_describe(certificate)}, "
                f"is valid from {certificate.not_valid_before_utc:%Y-%m-%d} on only."
            )
    if first.issuer == first.subject:
        raise SigningError(
            f"{certificate_file}: the first certificate, {_describe(first)}, is self-signed, which C2PA doesn't allow "
            "for signing images. Have it issued by an authority, which may be your own, and append the "
            "authority's certificate."
        )
    return _find_algorithm(private_key, key_file)


def _find_algorithm(private_key: Any, key_file: str) -> str:
    """Return the name of C2PA's algorithm for a private key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    curves = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
    if isinstance(private_key, ed25519.Ed25519PrivateKey):
        return "ED25519"
    if isinstance(private_key, rsa.RSAPrivateKey) and private_key.key_size >= MIN_RSA_BITS:
        return "PS256"
    if isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.curve.name in curves:
        return curves[private_key.curve.name]
    raise SigningError(
        f"{key_file} is a key that C2PA doesn't allow. Use P-256, P-384, P-521, Ed25519, or RSA with {MIN_RSA_BITS} "
        "bits or more."
    )


def _describe(certificate: Certificate) -> str:
    return f"that of {printable(certificate.subject.rfc4514_string())}"
