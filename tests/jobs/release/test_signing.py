"""Keys and signatures: who can read them, what a missing or rotated key does, and the commands."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys

import pytest

from contracts.errors import CheckFailed
from jobs.release import bundle, pointer, promote, signing
from serving.release import manifest
from serving.release.signature import PublicKeys, signature_file
from tests.helpers import small_week


@pytest.fixture
def promoted(home):
    """A home with a signed champion."""
    return small_week.staged(home, "champion")


def champion(context):
    return pointer.releases(context.home) / pointer.read(context.home).release


def verify(context, folder) -> None:
    PublicKeys.of("", context.home).verify(folder, signature_file(folder))


def test_key_pair_is_made_once_and_its_private_key_is_private(command, home):
    code, out, _ = command("release", "keys")
    report = json.loads(out)
    assert (code, report["created"], report["signing_key"]) == (0, True, str(home / "keys" / "release.pem"))
    assert stat.S_IMODE((home / "keys" / "release.pem").stat().st_mode) == 0o600
    content = (home / "keys" / "release.pem").read_bytes()
    again = json.loads(command("release", "keys")[1])
    assert (again["created"], again["public_keys"]) == (False, report["public_keys"])
    assert (home / "keys" / "release.pem").read_bytes() == content
    rotated = json.loads(command("release", "keys", "--rotate")[1])
    assert rotated["created"]
    assert len(rotated["public_keys"]) == 2
    assert (home / "keys" / "release.pem").read_bytes() != content


def test_promotion_signs_outside_the_folder_and_leaves_the_digest_alone(promoted):
    folder = champion(promoted)
    manifest.verify(folder)
    verify(promoted, folder)
    assert signature_file(folder).parent == folder.parent


@pytest.mark.parametrize("damage", ["signature", "manifest", "key", "empty"])
def test_wrong_signature_is_refused(promoted, tmp_path, damage):
    folder = shutil.copytree(champion(promoted), tmp_path / champion(promoted).name)
    signature = signature_file(folder)
    shutil.copy(signature_file(champion(promoted)), signature)
    verify(promoted, folder)
    if damage == "signature":
        content = signature.read_bytes()
        at = content.index(b'"sig"') + 40 if b'"sig"' in content else 20
        signature.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif damage == "manifest":
        (folder / manifest.NAME).write_bytes((folder / manifest.NAME).read_bytes() + b" ")
    elif damage == "key":
        shutil.rmtree(promoted.home / "keys")
        signing.create_keys(promoted.home / "keys" / signing.KEY)
    else:
        signature.write_bytes(b"")
    with pytest.raises(CheckFailed, match="its signature is not valid for any key at keys"):
        verify(promoted, folder)


def test_promotion_without_a_key_ends_before_anything_is_changed(home, command):
    context = small_week.staged(home, "passed")
    (home / "keys" / signing.KEY).unlink()
    with pytest.raises(CheckFailed, match=r"there is no private key at .*; run `overture release keys`"):
        promote.run(context)
    assert pointer.read(home) is None
    code, _, err = command("begin", "--week", small_week.FIRST)
    assert (code, "run `overture release keys`" in err) == (3, True)


def test_key_that_is_no_key_is_named(promoted):
    key = promoted.home / "keys" / signing.KEY
    key.write_text("no key")
    with pytest.raises(CheckFailed, match=r"release\.signing_key: .* cannot be used"):
        signing.sign(key, champion(promoted))


def test_unsigned_champion_of_an_earlier_version_is_signed_by_a_command(promoted, command):
    signature_file(champion(promoted)).unlink()
    with pytest.raises(CheckFailed, match="is missing; run `overture release sign`"):
        verify(promoted, champion(promoted))
    report = json.loads(command("status", "--json")[1])
    assert "run `overture release sign`" in report["problem"]
    code, out, _ = command("release", "sign")
    assert (code, json.loads(out)["signed"]) == (0, [champion(promoted).name])
    verify(promoted, champion(promoted))
    assert json.loads(command("status", "--json")[1])["problem"] is None


def test_rotation_keeps_old_signatures_valid_until_the_old_key_is_removed(promoted):
    (old,) = (promoted.home / "keys").glob("*.pub")
    signing.create_keys(promoted.home / "keys" / signing.KEY, rotate=True)
    verify(promoted, champion(promoted))
    old.unlink()
    with pytest.raises(CheckFailed, match="not valid"):
        verify(promoted, champion(promoted))
    signing.run(promoted)
    verify(promoted, champion(promoted))


def test_the_command_of_model_signing_verifies_a_release(promoted):
    """The signature is readable without this program."""
    folder = champion(promoted)
    (key,) = (promoted.home / "keys").glob("*.pub")
    process = subprocess.run(
        [
            *(sys.executable, "-m", "model_signing", "verify", "key", str(folder / manifest.NAME)),
            *("--signature", str(signature_file(folder)), "--public_key", str(key)),
        ],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_a_release_that_was_built_again_keeps_its_signature(promoted):
    verify(promoted, champion(promoted))
    assert bundle.run(promoted)["reused"]
    verify(promoted, champion(promoted))
