"""Signatures of releases: `<digest>.sig` beside the folder of a release, as OpenSSF model-signing writes it.

Only manifest.json is signed. It contains the SHA-256 of every file, which serving/release/manifest.py verifies, so no
file is hashed twice. `model_signing verify key <digest>/manifest.json --signature <digest>.sig --public_key ...`
verifies the same.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import CheckFailed
from serving.release import files, manifest

SUFFIX = ".sig"
FOLDER = "keys"  # below OVERTURE_HOME
PAYLOAD_TYPE, PREDICATE_TYPE = b"application/vnd.in-toto+json", "https://model_signing/signature/v1.0"


def signature_file(folder: Path) -> Path:
    """Return the place of the signature of a release, by the release's folder."""
    return folder.with_name(f"{folder.name}{SUFFIX}")


@dataclass(frozen=True)
class PublicKeys:
    """The public keys that a signature may be of; the files are read at each verification.

    Attributes:
        place: a PEM file, or a folder of files *.pub.
        name: `place` as a message names it.
    """

    place: Path
    name: str

    @classmethod
    def of(cls, release_key: str, home: Path) -> PublicKeys:
        """Return the keys of the setting `service.release_key`."""
        return cls(Path(release_key or home / FOLDER), release_key or FOLDER)

    def files(self) -> list[Path]:
        """Return the files of the keys.

        Raises:
            CheckFailed: there is none.
        """
        files = sorted(self.place.glob("*.pub")) if self.place.is_dir() else [self.place] * self.place.is_file()
        if not files:
            raise CheckFailed(
                f"service.release_key: there is no public key at {self.name}; run `overture release keys` where "
                "releases are promoted, and copy the file *.pub"
            )
        return files

    def verify(self, folder: Path, signature: Path) -> None:
        """Verify the signature of a release's manifest.

        Args:
            folder: folder that contains the manifest.
            signature: file of the signature.

        Raises:
            CheckFailed: there is no signature, it is damaged, of another key or of another manifest.
        """
        keys, short = self.files(), signature.name[:12]
        if not signature.is_file():
            raise CheckFailed(f"release {short}: {signature.name} is missing; run `overture release sign`")
        content, bundle = (folder / manifest.NAME).read_bytes(), signature.read_bytes()
        reasons = []
        for key in keys:
            try:
                verify_bundle(bundle, content, key.read_bytes())
                return
            except Exception as error:  # a damaged signature or key can fail in any way
                reasons.append(f"{key.name}: {' '.join(str(error).split()) or type(error).__name__:.200}")
        raise CheckFailed(
            f"release {short}: its signature is not valid for any key at {self.name} ({'; '.join(reasons)})"
        )


def verify_bundle(bundle: bytes, content: bytes, public_key: bytes) -> None:
    """Verify a signature that model-signing made of one file with an elliptic curve key.

    The bundle contains a DSSE envelope (github.com/secure-systems-lab/dsse) of an in-toto statement with the file's
    SHA-256. It is verified here, because to import model-signing takes longer than the whole start of the service.

    Args:
        bundle: the signature, a Sigstore bundle as JSON.
        content: the signed file.
        public_key: the public key as PEM.

    Raises:
        ValueError: the key is of another kind, or another file was signed.
        Exception: InvalidSignature where the key is another one; whatever a damaged bundle leads to.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    envelope = json.loads(bundle)["dsseEnvelope"]
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"], validate=True)
    key = serialization.load_pem_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the key must be of an elliptic curve")
    algorithms: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    algorithm = algorithms[key.curve.key_size]
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"], validate=True), signed, ec.ECDSA(algorithm))
    statement = json.loads(payload)
    wanted = [{"name": ".", "algorithm": "sha256", "digest": files.digest(content)}]
    if (kind, statement["predicateType"]) != (PAYLOAD_TYPE, PREDICATE_TYPE):
        raise ValueError("it is not the signature of a model")
    if statement["predicate"]["resources"] != wanted:
        raise ValueError(f"it is the signature of another {manifest.NAME}")
