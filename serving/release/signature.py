"""Signatures of releases: `<digest>.sig` beside the folder of a release, as OpenSSF model-signing writes it.

Only manifest.json is signed. It contains the SHA-256 of every file, which serving/release/manifest.py verifies, so no
file is hashed twice. `model_signing verify key <digest>/manifest.json --signature <digest>.sig --public-key ...`
verifies the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contracts.errors import CheckFailed
from serving.release import manifest

SUFFIX = ".sig"
FOLDER = "keys"  # below OVERTURE_HOME


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
        found = sorted(self.place.glob("*.pub")) if self.place.is_dir() else [self.place] * self.place.is_file()
        if not found:
            raise CheckFailed(
                f"service.release_key: there is no public key at {self.name}; run `overture release keys` where "
                "releases are promoted, and copy the file *.pub"
            )
        return found

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
        from model_signing import verifying  # slow to import

        reasons = []
        for key in keys:
            try:
                config = verifying.Config().use_elliptic_key_verifier(public_key=key)
                config.verify(folder / manifest.NAME, signature)
                return
            except Exception as error:  # a damaged signature or key can fail in any way
                reasons.append(f"{key.name}: {' '.join(str(error).split()) or type(error).__name__:.200}")
        raise CheckFailed(
            f"release {short}: its signature is not valid for any key at {self.name} ({'; '.join(reasons)})"
        )
