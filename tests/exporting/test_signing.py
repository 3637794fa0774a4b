"""`export --sign`: C2PA manifests that its own reader verifies, and certificates and keys that can't sign."""

import contextlib
import io
import json

import c2pa
import pytest
from certificates import make_chain
from commands import run
from PIL import Image
from tiny_datasets import make_dataset

from figureground.core.errors import RecipeError
from figureground.exporting.exporting import export
from figureground.exporting.signing import ImageSigner, Signing, SigningError
from figureground.shards.finished import FinishedDataset
from figureground.shards.shard import Shard
from figureground.sources import marks
from figureground.sources.images import encode

MIME = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return make_chain(tmp_path_factory.mktemp("keys"))


def read(data, mime, root=None):
    """The manifest that C2PA's reader finds, and its verdict; trusted only with an authority's certificate."""
    trust = {"trust": {"trust_anchors": root}, "verify": {"verify_trust": True}} if root else {}
    with c2pa.Reader(mime, io.BytesIO(data), context=c2pa.Context(c2pa.Settings.from_dict(trust))) as reader:
        store = json.loads(reader.json())
        return store["manifests"][store["active_manifest"]], reader.get_validation_state()


def test_exported_images_are_signed_and_keep_their_pixels(chain, tmp_path):
    directory = make_dataset(tmp_path / "set", shards=(Shard("train", 0, 1, 4),))
    arguments = ["export", str(directory), "--out", str(tmp_path / "out"), "--sign", str(chain.chain), str(chain.key)]
    assert run(*arguments)[0] == 0
    dataset = FinishedDataset(directory)
    for stored in dataset.stored(dataset.shards[0]):
        path = next((tmp_path / "out").rglob(f"{stored.key}.png"))
        manifest, verdict = read(path.read_bytes(), "image/png", chain.root)
        assert verdict == "Trusted"
        assert "ingredients" not in manifest
        assert manifest["title"] == path.name
        assert manifest["claim_generator_info"][0]["name"] == "figureground"
        [action] = manifest["assertions"][0]["data"]["actions"]
        assert action["action"] == "c2pa.created"
        assert action["digitalSourceType"] == marks.COMPOSITE  # it has a guide
        assert action["softwareAgent"]["name"] == "figureground"
        assert "time" not in manifest["signature_info"]
        assert Image.open(path).tobytes() == Image.open(io.BytesIO(stored.image)).tobytes()
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert run(*arguments)[0] == 0  # what is signed stays
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")} == before


@pytest.mark.parametrize(("kind", "format"), [("es256", "webp"), ("es384", "jpg"), ("ed25519", "png"), ("rsa", "jpg")])
def test_formats_and_kinds_of_keys(tmp_path, kind, format):
    made = make_chain(tmp_path, kind)
    data = encode(Image.effect_noise((20, 20), 90).convert("RGB"), format, marks.make_packet(marks.GENERATED))
    signed = ImageSigner(Signing(made.chain, made.key), format).sign(data, f"x.{format}", marks.GENERATED)
    manifest, verdict = read(signed, MIME[format], made.root)
    assert (verdict, read(signed, MIME[format])[1]) == ("Trusted", "Valid")
    assert manifest["assertions"][0]["data"]["actions"][0]["digitalSourceType"] == marks.GENERATED
    before, after = (Image.open(io.BytesIO(each)) for each in (data, signed))
    assert before.tobytes() == after.tobytes()
    assert marks.read_source_type(after) == marks.GENERATED
    changed = bytearray(signed)
    changed[-40] ^= 1
    with contextlib.suppress(c2pa.C2paError):  # it may not even be readable
        assert read(bytes(changed), MIME[format])[1] == "Invalid"


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"days": (-30, -1)}, "expired on"),
        ({"days": (3, 30)}, "is valid from"),
        ({"alone": True}, "is self-signed"),
        ({"usage": False}, "extended key usage"),
        ({"password": b"secret"}, "is encrypted"),
        ({"kind": "k256"}, "P-256"),
    ],
)
def test_certificates_and_keys_that_cannot_sign(tmp_path, how, named):
    made = make_chain(tmp_path, **how)
    with pytest.raises(SigningError, match=named):
        ImageSigner(Signing(made.chain, made.key), "jpg")


def test_files_that_do_not_fit(chain, tmp_path):
    other = make_chain(tmp_path / "other")
    with pytest.raises(SigningError, match="isn't the key of"):
        ImageSigner(Signing(chain.chain, other.key), "jpg")
    first, second = other.chain.read_text().split("-----END CERTIFICATE-----\n")[:2]
    end = "-----END CERTIFICATE-----\n"
    other.chain.write_text(second + end + first + end)
    with pytest.raises(SigningError, match="put the certificate that the key belongs to first"):
        ImageSigner(Signing(other.chain, other.key), "jpg")
    with pytest.raises(SigningError, match="no certificate chain"):
        ImageSigner(Signing(chain.key, chain.key), "jpg")
    with pytest.raises(SigningError, match="no private key"):
        ImageSigner(Signing(chain.chain, chain.chain), "jpg")
    with pytest.raises(SigningError, match="absent"):
        ImageSigner(Signing(tmp_path / "absent", chain.key), "jpg")


def test_a_timestamping_service_that_does_not_answer_is_named(chain):
    with pytest.raises(SigningError, match=r"127\.0\.0\.1:9"):
        ImageSigner(Signing(chain.chain, chain.key, "http://127.0.0.1:9/stamp"), "jpg")


def test_signed_images_are_no_links_and_no_targets_of_links(chain, tmp_path):
    directory = make_dataset(tmp_path / "set", shards=(Shard("train", 0, 1, 2),))
    signing = (chain.chain, chain.key)
    export(directory, tmp_path / "signed", sign=signing, show_progress=False)
    with pytest.raises(RecipeError, match="bytes"):
        export(directory, tmp_path / "out", sign=signing, link=tmp_path / "signed", show_progress=False)
    with pytest.raises(Exception, match="are signed"):
        export(directory, tmp_path / "out", link=tmp_path / "signed", show_progress=False)
