"""Tests of the bundle: complete, immutable, named by its content; and of the network in it."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pyarrow as pa
import pytest

from contracts.errors import CheckFailed
from jobs.cold_start import onnx_export
from jobs.platform import files
from jobs.release import bundle, pointer, registry
from jobs.release.cold_start import bundle as cold_start_bundle
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import FirstDays
from serving.release import manifest
from serving.release.bundle import open_release
from serving.release.loaded import LoadedRelease
from serving.release.pointer import Pointer
from serving.schema import Track
from tests.helpers import small_week


@pytest.fixture
def context(home):
    return small_week.ready(home)


@pytest.fixture
def built(context):
    return bundle.build(context, cold_start_bundle)[0]


def test_bundle_contains_both_spaces_and_provenance(context, built):
    names = set(manifest.verify(built)["files"])
    for space in small_week.SPACES:
        assert {
            f"{space}/{name}"
            for name in (
                "network.onnx",
                "layout.json",
                "track_vectors.npy",
                "centroids.npy",
                "rankings.npy",
                "segments.json",
                "entities/song.ids.npy",
                "entities/playlist.vectors.npy",
                "demographics/country.npy",
            )
        } <= names
    release = open_release(built)
    assert release.week == "2026-11-16"
    assert release.provenance["commit"] == context.commit
    assert release.provenance["networks"]["tt_svd"] == {"seed": 3}
    assert release.document("quality")["users"] == {"success": True, "failed": [], "warned": []}
    assert release.document("contracts")["catalog"] == 2
    assert {row["space"] for row in release.document("evaluation")} == set(small_week.SPACES)
    assert len(release.names["title"]) == small_week.N_TRACKS
    for track, title, artist in zip(
        release.track_ids, release.names["title"], release.names["artist_name"], strict=True
    ):
        assert title == (f"Song {track}" if track % 10 else None)
        assert artist in ("Ada", "Bo & the <b>Bs</b>", None)
    everything = b"".join((built / name).read_bytes() for name in names)
    assert str(context.home).encode() not in everything
    assert b"torch/" not in everything, "the exporter's notes name source files"


def test_equal_inputs_give_equal_releases(context, built, tmp_path):
    again, reused = bundle.build(context, cold_start_bundle)
    assert (again, reused) == (built, True)
    elsewhere, reused = bundle.build(small_week.ready(tmp_path / "elsewhere"), cold_start_bundle)
    assert (elsewhere.name, reused) == (built.name, False)
    other, _ = bundle.build(small_week.ready(tmp_path / "other", taste=0.9), cold_start_bundle)
    assert other.name != built.name
    assert [path.name for path in pointer.releases(context.home).iterdir()] == [built.name]


def test_release_name_does_not_depend_on_the_folder(context, built):
    settings = context.settings
    spark = settings.spark.model_copy(update={"master": "spark://cluster:7077"})
    mlflow = settings.mlflow.model_copy(update={"tracking_uri": "postgresql://me:secret@host/db"})
    lake = str(context.home / "lake")
    moved = type(context)(
        settings.model_copy(update={"spark": spark, "mlflow": mlflow, "lake": lake}), context.week, context.home
    )
    assert bundle.build(moved, cold_start_bundle)[0] == built


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add", "manifest", "rename"])
def test_verify_names_the_damaged_file(built, damage):
    victim = built / "tt_svd" / "centroids.npy"
    content = victim.read_bytes()
    named = "tt_svd/centroids.npy"
    if damage == "flip":
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        victim.write_bytes(content[:-4])
    elif damage == "remove":
        victim.unlink()
    elif damage == "add":
        (built / "tt_svd" / "extra.bin").write_bytes(b"")
        named = "tt_svd/extra.bin is not in the manifest"
    elif damage == "manifest":
        path = built / "manifest.json"
        path.write_bytes(path.read_bytes().replace(b'"bytes":', b'"bytes": ', 1))
        named = "manifest.json is damaged"
    else:
        built = built.rename(built.with_name("0" * 64))
        named = "manifest.json is damaged"
    with pytest.raises(CheckFailed, match=named):
        manifest.verify(built)


def test_damaged_bundle_is_rebuilt(context, built):
    (built / "tt_svd" / "centroids.npy").write_bytes(b"")
    again, reused = bundle.build(context, cold_start_bundle)
    assert (again, reused) == (built, False)
    manifest.verify(built)


def test_interrupted_build_leaves_no_files(context, monkeypatch):
    def full(path, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        bundle.build(context, cold_start_bundle)
    assert list(pointer.releases(context.home).iterdir()) == []
    assert not list((context.home / "scratch").glob("bundle*"))


def test_run_registers_one_version_per_release_as_challenger(context):
    first, second = bundle.run(context), bundle.run(context)
    assert (first["release"], first["version"]) == (second["release"], second["version"])
    assert (first["reused"], second["reused"]) == (False, True)
    tracker = Tracker.connect(context)
    assert registry.read_aliases(context, tracker) == {"challenger": first["release"]}
    version = tracker.client.get_model_version_by_alias("cold_start", "challenger")
    assert version.tags == {"release": first["release"], "week": "2026-11-16", "commit": context.commit}
    logged = tracker.client.search_logged_models([tracker.experiment_id])
    assert [model.name for model in logged] == ["network_tt_svd"]
    import mlflow

    mlflow.set_tracking_uri(tracker.uri)
    model = mlflow.onnx.load_model("models:/cold_start@challenger")
    bytes_in_bundle = (bundle.pointer.releases(context.home) / first["release"] / "tt_svd/network.onnx").read_bytes()
    assert model.SerializeToString(deterministic=True) == bytes_in_bundle
    pickles = [path for path in context.home.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib")]
    assert pickles == []


def test_error_names_the_untrained_space(context):
    (context.work / "ut_als" / "network.json").unlink()
    with pytest.raises(CheckFailed, match="overture train --space ut_als"):
        bundle.build(context, cold_start_bundle)


def test_changed_network_raises(context):
    with (context.work / "ut_als" / "network.onnx").open("ab") as sink:
        sink.write(b"x")
    with pytest.raises(CheckFailed, match=r"network\.onnx is damaged"):
        bundle.build(context, cold_start_bundle)


def test_examples_of_bad_rows_are_not_in_the_bundle(context):
    path = context.home / "quality" / "2026-11-16" / "users.json"
    promise = {
        "rule": "null_share",
        "columns": ["age"],
        "expected": "few unknown",
        "observed": 0.95,
        "verdict": "warned",
    }
    warned = [{**promise, "examples": [{"user_id": 424242}]}]
    path.write_text(json.dumps({"table": "users", "success": True, "failed": [], "warned": warned}))
    warnings = open_release(bundle.build(context, cold_start_bundle)[0]).document("quality")["users"]["warned"]
    assert warnings == [{"rule": "null_share", "columns": ["age"], "expected": "few unknown", "observed": 0.95}]


def test_new_releases_are_marked_in_responses(context, built):
    assert not open_release(built).is_new_release.any()
    assert not (built / "tracks" / "new_release.npy").exists()
    catalog = context.lake.read("catalog", week=context.week.name)
    is_new = np.arange(small_week.N_TRACKS) >= small_week.N_TRACKS - 3
    column = catalog.schema.get_field_index("is_new")
    context.lake.write("catalog", catalog.set_column(column, "is_new", pa.array(is_new)), week=context.week.name)
    folder, _ = bundle.build(context, cold_start_bundle)
    loaded, unmarked = (LoadedRelease(open_release(one), Pointer(one.name, None, 0, "")) for one in (folder, built))
    tracks = orjson.loads(orjson.dumps(loaded.track_json))
    assert [track.get("new_release") for track in tracks] == [True if new else None for new in is_new]
    assert [Track.model_validate(track).new_release for track in tracks] == is_new.tolist()
    before = orjson.loads(orjson.dumps(unmarked.track_json))
    assert [{**track, "new_release": None} for track in tracks] == [{**track, "new_release": None} for track in before]


def test_release_recommendations_equal_those_of_the_evaluated_methods(built):
    release = open_release(built)
    days, _, group = small_week.cohort()
    days = FirstDays.from_arrow(days)
    x = release.inputs("tt_svd", days)
    space = release.spaces["tt_svd"]
    assert isinstance(space.array("track_vectors"), np.memmap)
    np.testing.assert_allclose(space.predict(x), small_week.trained()[2], atol=1e-5)
    tracks = space.method("semi_pers").recommend(x, 20, days)
    taste = np.mean(tracks % small_week.N_GROUPS == group[:, None])
    assert taste > 0.9
    np.testing.assert_array_equal(space.method("semi_pers").recommend(x[7:8], 20, days.rows(7, 8))[0], tracks[7])
    assert space.method("full_pers").recommend(x, 20, days).shape == (len(days), 20)
    np.testing.assert_array_equal(space.method("popularity").recommend(x, 3)[0], [0, 1, 2])


def test_listeners_without_interactions_get_the_rankings_of_their_groups(built):
    space = open_release(built).spaces["tt_svd"]
    days = FirstDays.from_arrow(small_week.cohort()[0])
    silent, x = days.without_interactions(), open_release(built).inputs("tt_svd", days)
    assert 0 < silent.sum() < len(days)
    own = np.stack([np.argsort(small_week.tracks()[1] != g, kind="stable") for g in range(small_week.N_GROUPS)])
    by_country = own[np.arange(len(days)) % small_week.N_GROUPS]
    for name in ("semi_pers", "full_pers"):
        lists, by_vector = (space.method(name, p).recommend(x, 20, days) for p in (None, space.predict))
        np.testing.assert_array_equal(lists[silent], by_country[silent, :20])
        np.testing.assert_array_equal(lists[~silent], by_vector[~silent])


def test_a_release_without_group_rankings_recommends_by_the_network(built):
    changed = {f"{s}/demographics/rankings.{e}": None for s in small_week.SPACES for e in ("npy", "json")}
    release = open_release(small_week.with_changed_files(built, changed))
    space, days = release.spaces["tt_svd"], FirstDays.from_arrow(small_week.cohort()[0])
    x = release.inputs("tt_svd", days)
    assert space.country_age is None
    lists = space.method("semi_pers").recommend(x, 20)
    np.testing.assert_array_equal(lists, space.method("semi_pers", space.predict).recommend(x, 20, days))


def test_a_week_without_countries_and_ages_becomes_a_release(context):
    for space in small_week.SPACES:
        for table in ("demographic_vectors", "demographic_rankings"):
            rows = context.lake.read(table, week=context.week.name, space=space)
            context.lake.write(table, rows.slice(0, 0), week=context.week.name, space=space)
    space = open_release(bundle.build(context, cold_start_bundle)[0]).spaces["tt_svd"]
    silent = FirstDays.single("FR", 30, {})
    assert space.country_age.rankings == {}
    assert space.method("semi_pers").recommend(np.zeros((1, 219)), 3, silent).tolist() == [[0, 1, 2]]


def test_unknown_layout_raises(context, monkeypatch):
    monkeypatch.setattr(
        cold_start_bundle, "bundle_layout", lambda d: {"d": d, "size": 20 * d + 19, "blocks": {}, "scalars": {}}
    )
    built, _ = bundle.build(context, cold_start_bundle)
    with pytest.raises(CheckFailed, match=r"layout\.json is another program's"):
        open_release(built)


def test_onnx_export_is_deterministic_with_free_batch_size():
    net, onnx, predictions = small_week.trained()
    assert onnx_export.to_onnx(net) == onnx
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, net.d_in)).astype(np.float32)
    from models.cold_start.network import predict

    assert onnx_export.parity(onnx, predict(net, x), x) < 1e-5
    assert onnx_export.parity(onnx, predict(net, x) + 1, x) == pytest.approx(1, abs=1e-4)
    session = onnx_export.session(onnx)
    for rows in (0, 1, 2, onnx_export.BATCH + 1):
        assert onnx_export.run(session, np.zeros((rows, net.d_in), np.float32)).shape == (rows, net.d_out)
    with pytest.raises(ValueError, match="shape"):
        onnx_export.parity(onnx, predictions[:1], x)
    with pytest.raises(CheckFailed, match="onnxruntime cannot open"):
        onnx_export.session(b"no network")


def test_object_arrays_raise(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        files.write_array(tmp_path / "x.npy", np.array([{}], object))


def test_bundle_of_newer_contracts_raises(context):
    versions = {"catalog": 1, "segments": 2, "a_table_of_tomorrow": 9}
    newer = small_week.with_changed_files(
        bundle.build(context, cold_start_bundle)[0], {"contracts.json": files.canonical(versions)}
    )
    with pytest.raises(CheckFailed, match="contract segments has version 2, this program supports 1"):
        open_release(newer)


def test_bundle_without_names_opens(context):
    older = small_week.with_changed_files(bundle.build(context, cold_start_bundle)[0], {"tracks/names.json": None})
    assert open_release(older).names["title"] == [None] * small_week.N_TRACKS
