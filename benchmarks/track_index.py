"""Measure the approximate index of a large catalogue against exact lists and against usearch.

The tracks are overlapping clusters (segments.py). A listener's vector is the weighted mean of three tracks, so most
listeners are between clusters, where an index has to read more. With a home, the service is measured too: its champion
with as many tracks, each a noisy copy of one of the champion's own.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import harness
import load
import service
from harness import Measurement, Peer
from segments import mixture

K, N_QUERIES, MIN_RECALL = 50, 500, 0.99
TASTES = np.array([0.6, 0.25, 0.15], np.float32)
RATE = 50  # requests a second
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 512  # of usearch's graph


def listeners(items_ND: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return vectors (n, D) of listeners with three tastes."""
    tracks_n3 = np.random.default_rng(seed).integers(len(items_ND), size=(n, 3))
    return np.einsum("ntd,t->nd", items_ND[tracks_n3], TASTES)


def build(items: str, folder: str) -> Measurement:
    """Measure the build of the index, with the choice of how much a query reads."""
    from models.cold_start import track_index

    items_ND, path = np.load(items, mmap_mode="r"), Path(folder) / "track_index"
    elapsed = harness.stopwatch()
    track_index.write(path, items_ND, "cosine", listeners(items_ND, N_QUERIES, 1), K, MIN_RECALL)
    return Measurement([elapsed()], {"MiB on disk": (path / track_index.INDEX).stat().st_size / 2**20})


def build_usearch(items: str, folder: str) -> Measurement:
    """Measure the build of an HNSW graph on all cores, with 8 bits per value."""
    from usearch.index import Index

    items_ND, path = np.load(items, mmap_mode="r"), Path(folder) / "usearch"
    elapsed = harness.stopwatch()
    graph = Index(
        ndim=items_ND.shape[1], metric="ip", dtype="i8", connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD
    )
    for start in range(0, len(items_ND), 1 << 16):
        part = np.asarray(items_ND[start : start + (1 << 16)])
        graph.add(np.arange(start, start + len(part)), part)
    graph.save(str(path))
    return Measurement([elapsed()], {"MiB on disk": path.stat().st_size / 2**20})


def queries(search: Callable[[np.ndarray], Any], items_ND: np.ndarray, exact: str) -> Measurement:
    """Measure one query after the other; the recall is the share of the exact list."""
    from models.cold_start.top_k import normalise

    query_QD, exact_QK = normalise(listeners(items_ND, N_QUERIES, 2)), np.load(exact)
    for query in query_QD[:50]:
        search(query)
    times, shares = [], []
    for query, exact_K in zip(query_QD, exact_QK, strict=True):
        start = time.perf_counter()
        tracks = search(query)
        times.append(time.perf_counter() - start)
        shares.append(len(np.intersect1d(tracks, exact_K)) / K)
    p50, p99 = np.quantile(times, [0.5, 0.99])
    return Measurement([float(p50)], {"p99 ms": float(1000 * p99), f"recall@{K}": float(np.mean(shares))})


def search_exact(items: str, exact: str) -> Measurement:
    """Measure exact lists."""
    from models.cold_start.top_k import ItemIndex

    items_ND = np.load(items)
    index = ItemIndex(items_ND, "cosine")
    return queries(lambda query: index.top_k(query[None], K)[0], items_ND, exact)


def search(items: str, folder: str, exact: str) -> Measurement:
    """Measure the index as the service uses it."""
    from models.cold_start.track_index import TrackIndex

    items_ND = np.load(items, mmap_mode="r")
    index = TrackIndex(Path(folder) / "track_index", items_ND)
    result = queries(lambda query: index.top_k(query[None], K)[0], items_ND, exact)
    return Measurement(result.seconds, {**result.quality, "read share": index.n_probe / index.n_lists})


def search_usearch(items: str, folder: str, exact: str) -> Measurement:
    """Measure the mapped graph; its candidates are scored again with the exact vectors."""
    from usearch.index import Index

    items_ND = np.load(items, mmap_mode="r")
    graph = Index.restore(str(Path(folder) / "usearch"), view=True)
    graph.expansion_search = EXPANSION_SEARCH

    def best(query: np.ndarray) -> np.ndarray:
        near = np.sort(graph.search(query, EXPANSION_SEARCH, threads=1).keys.astype(np.int64))
        return near[np.argsort(-(items_ND[near] @ query))[:K]]

    return queries(best, items_ND, exact)


def enlarged_home(source: Path, target: Path, n: int) -> str:
    """Write a home whose champion has n tracks, recommends with full_pers and contains the index; return its path.

    Args:
        source: a home with a champion.
        target: folder of the new home.
        n: number of tracks.
    """
    from jobs.platform import files
    from jobs.release.bundle import write_manifest
    from models.cold_start import track_index
    from serving.release import manifest, pointer
    from serving.release.bundle import TRACK_INDEX, open_release

    now = pointer.read(source)
    if now is None:
        raise SystemExit(f"{source}: this home has no champion; run `make demo` first")
    champion = open_release(pointer.releases(source) / now.release)
    space_name, _ = champion.space_and_method
    folder, rng = target / "bundle", np.random.default_rng(3)
    shutil.copytree(champion.folder, folder)
    n_own = len(champion.track_ids)
    edition_N, copy_of = np.divmod(np.arange(n), n_own)
    for path in sorted((folder / "tracks").glob("*.npy")):
        values = np.load(path)
        copies = values[..., copy_of]
        if path.stem in ("track_id", "artist_id", "album_id", "recording"):  # every copy of the catalogue has its own
            copies = copies + (edition_N * (int(values.max()) + 1)).astype(values.dtype)
        write_array(path, copies)
    ids = np.load(folder / "tracks" / "track_id.npy")
    names = {column: [values[i] for i in copy_of.tolist()] for column, values in champion.names.items()}
    replace_file(folder / "tracks" / "names.json", files.canonical(names))
    space, space_folder = champion.spaces[space_name], folder / space_name
    tracks_ND = space.array("track_vectors")[copy_of]
    scale = float(np.sqrt(np.square(tracks_ND[:n_own]).mean()))
    tracks_ND[n_own:] += 0.3 * scale * rng.standard_normal((n - n_own, space.layout["d"]), np.float32)
    write_array(space_folder / "track_vectors.npy", tracks_ND)
    order = np.argsort(ids, kind="stable")
    write_array(space_folder / "entities" / "song.ids.npy", ids[order])
    write_array(space_folder / "entities" / "song.vectors.npy", tracks_ND[order])
    queries_QD = listeners(tracks_ND, N_QUERIES, 1)
    track_index.write(space_folder / TRACK_INDEX, tracks_ND, space.layout["similarity"], queries_QD, K, MIN_RECALL)
    provenance = champion.provenance
    gate = {**provenance["settings"]["gate"], "method": "full_pers"}
    settings = {**provenance["settings"], "gate": gate}
    replace_file(folder / "provenance.json", files.canonical({**provenance, "settings": settings}))
    (folder / manifest.NAME).unlink()
    release = write_manifest(folder)
    (target / "releases").mkdir()
    folder.rename(target / "releases" / release)
    service.promote(str(target), release)
    return str(target)


def write_array(path: Path, values: np.ndarray) -> None:
    """Replace an array of a bundle."""
    path.unlink(missing_ok=True)
    np.save(path, values)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file of a bundle."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def serve(home: str, seconds: float) -> Measurement:
    """Measure the 99th percentile of the service at RATE requests per second."""
    with service.service(home) as (process, port, ready_s):
        bodies = [json.dumps({"listener": listener, "k": K}) for listener in first_days(port)]
        requests = [load.post("/v1/recommendations", body.encode()) for body in bodies]
        result = load.fixed_rate(port, requests, RATE, seconds, service.WARM_S)
        quality = {**result.quality(), "s to ready": ready_s, "server MiB": service.memory_mib(process)}
    if result.failed:
        raise RuntimeError(f"{result.failed} requests failed")
    return Measurement([quality["p99 ms"] / 1000], quality)


def first_days(port: int) -> list[dict[str, Any]]:
    """Return first days of listeners of popular tracks."""
    tracks = [one["id"] for one in service.get_json(port, "/v1/search?kind=tracks&limit=200")["results"]]
    draw = random.Random(7)
    return [
        {"country": "FR", "age": draw.randrange(18, 70), "streams": {"tracks": draw.sample(tracks, 8)}}
        for _ in range(service.N_FIRST_DAYS)
    ]


def main() -> None:
    """Measure builds, queries and, with a home, the service."""
    from models.cold_start.top_k import ItemIndex

    arguments = harness.parse_arguments("track_index", __doc__ or "", "a home with a champion (default: no service)")
    n, d = (200_000, 128) if arguments.quick else (2_000_000, 256)
    with tempfile.TemporaryDirectory() as folder:
        items, exact = str(Path(folder) / "items.npy"), str(Path(folder) / "exact.npy")
        harness.log(f"{n} tracks of width {d} ...")
        items_ND = mixture(n, d, n // 12)
        np.save(items, items_ND)
        np.save(exact, ItemIndex(items_ND, "dot").top_k(listeners(items_ND, N_QUERIES, 2), K))
        del items_ND
        name, peer = "Overture", "usearch, HNSW of 8 bits"
        where = {"items": items, "folder": folder}
        built = harness.compare([Peer(name, build, where, 1), Peer(peer, build_usearch, where, 1)])
        asked = harness.compare(
            [
                Peer("exact", search_exact, {"items": items, "exact": exact}, 1),
                Peer(name, search, {**where, "exact": exact}, 1),
                Peer(peer, search_usearch, {**where, "exact": exact}, 1),
            ]
        )
    cases = [
        {
            "case": f"build, {n} tracks x {d}",
            "about": "From the vectors to the files, on all cores. Overture includes exact lists of "
            f"{N_QUERIES} listeners, on which it chooses how many lists a query reads.",
            "peers": built,
            "ratios": harness.ratios(built, name),
        },
        {
            "case": f"one query of {K} tracks, {n} tracks x {d}",
            "about": f"{N_QUERIES} other listeners, one after the other, on one core; seconds are medians of a query.",
            "peers": asked,
            "ratios": harness.ratios(asked, name),
        },
    ]
    ours = asked[name]["quality"]
    targets = [
        harness.promise("ms of a query, p99", 10, ours["p99 ms"], at_most=True),
        harness.promise(f"recall@{K}", MIN_RECALL, ours[f"recall@{K}"]),
    ]
    if arguments.data:
        with tempfile.TemporaryDirectory() as folder:
            home = enlarged_home(arguments.data.absolute(), Path(folder), n)
            seconds = 4.0 if arguments.quick else 20.0
            served = harness.compare([Peer("full_pers", serve, {"home": home, "seconds": seconds}, 3)])
        cases.append(
            {
                "case": f"the service with {n} tracks",
                "about": f"{RATE} requests a second with one worker; a time counts from when its request was due.",
                "timed": "p99, s",
                "peers": served,
                "ratios": harness.ratios(served, "full_pers"),
            }
        )
        p99_ms = 1000 * served["full_pers"]["seconds"]["median"]
        targets.append(harness.promise(f"p99 ms of the service at {RATE} requests/s", 10, p99_ms, at_most=True))
    harness.write_result(arguments, cases, targets, ("p99 ms of a query", ours["p99 ms"]))


if __name__ == "__main__":
    main()
