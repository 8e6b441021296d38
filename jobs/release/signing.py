"""Keys and signatures of releases; serving/release/signature.py verifies them.

OVERTURE_HOME/keys/release.pem                  the private key (P-256), readable by its owner alone
OVERTURE_HOME/keys/release-<fingerprint>.pub    its public key; services accept every *.pub of their folder
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.context import Context
from jobs.release.destination import open_destination, release_folder
from serving.release import manifest
from serving.release.signature import FOLDER, signature_file

KEY = "release.pem"


def signing_key(context: Context) -> Path:
    """Return the file of the private key."""
    return Path(context.settings.release.signing_key or context.home / FOLDER / KEY)


def create_keys(file: Path, rotate: bool = False) -> dict[str, object]:
    """Create a key pair if there is no private key.

    The public key of an earlier pair remains, and with it the validity of its signatures.

    Args:
        file: file of the private key.
        rotate: replace the private key.

    Returns:
        The report: whether a pair was created, the file of the private key, the files of the public keys beside it.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    created = rotate or not file.exists()
    if created:
        private = ec.generate_private_key(ec.SECP256R1())
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        # The public key first: whatever is signed with the private key can then be verified.
        files.replace(file.with_name(f"release-{hashlib.sha256(public).hexdigest()[:12]}.pub"), public, 0o644)
        content = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        files.replace(file, content, 0o600)
    return {
        "created": created,
        "signing_key": str(file),
        "public_keys": sorted(str(path) for path in file.parent.glob("*.pub")),
    }


def require_key(key: Path) -> None:
    """Raise CheckFailed if there is no private key."""
    if not key.is_file():
        raise CheckFailed(f"release.signing_key: there is no private key at {key}; run `overture release keys`")


def sign(key: Path, folder: Path) -> None:
    """Write the signature of a release beside its folder.

    Args:
        key: file of the private key.
        folder: the release.

    Raises:
        CheckFailed: there is no private key, or it cannot be used.
    """
    require_key(key)
    from model_signing import signing  # slow to import

    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "made"
        try:
            signing.Config().use_elliptic_key_signer(private_key=key).sign(folder / manifest.NAME, made)
        except (OSError, ValueError, TypeError) as error:
            raise CheckFailed(f"release.signing_key: {key} cannot be used: {error}") from error
        files.replace(signature_file(folder), made.read_bytes())


def run(context: Context, release: str | None = None) -> dict[str, object]:
    """Sign releases again and write the signatures to the destination.

    Args:
        context: engine and settings.
        release: digest of a release; None: the champion and the release that a rollback returns to.

    Returns:
        The report with the digests.

    Raises:
        CheckFailed: there is no champion, no key, or the release is damaged.
    """
    destination = open_destination(context)
    with destination.lock():
        champion = destination.read_pointer()
        if champion is None:
            raise CheckFailed("sign: there is no champion yet; `overture release promote` signs what it promotes")
        names = [name for name in ([release] if release else [champion.release, champion.previous]) if name]
        for name in names:
            folder = release_folder(context, name)
            manifest.verify(folder)
            sign(signing_key(context), folder)
            destination.write_signature(folder)
    return {"signed": names}
