"""The settings file of `overture make-tables`."""

from __future__ import annotations

from string import Template

_TEMPLATE = Template("""\
# Settings of a made-up service whose data is read by the source `tables`.
# Check the mapping without writing anything:
#   overture ingest tables --data DIR --config DIR/overture.yaml --dry-run
name: tables
week: "2026-11-16"
source:
  kind: tables
  inputs:
    # {data} is the folder of --data, {day} a day such as 2026-11-16.
    accounts:  {format: csv, path: "{data}/accounts*.csv.gz", options: {header: true}}
    catalogue: {format: parquet, path: "{data}/catalogue"}
    playlists: {format: json, path: "{data}/playlists.jsonl.gz"}
    listens:   {format: json, path: "{data}/listens/day={day}/*.jsonl"}
  tables:
    # The columns of each table: docs/reference/tables.md. Ids may be text.
    users: >
      SELECT account_uuid AS user_id, upper(country) AS country, year(created) - birth_year AS age,
             created AS registered_at
      FROM accounts
    tracks: >
      SELECT uuid AS track_id, artist_uuid AS artist_id, album_uuid AS album_id, style AS genre,
             length_ms div 1000 AS duration_s, released AS release_date, name AS title, performer AS artist_name,
             explicit, isrc AS recording_id, markets AS countries
      FROM catalogue
    events: >
      SELECT listener AS user_id, at AS ts, action AS kind, type AS entity, item AS entity_id, seconds AS listened_s
      FROM listens
    playlists: >
      SELECT playlist AS playlist_id, pos AS position, track AS track_id, owner AS user_id,
             timestamp_millis(added) AS added_at, title, public
      FROM playlists
# Sizes for one machine.
spark:
  extra:
    spark.driver.extraJavaOptions: "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
    spark.sql.adaptive.enabled: "false"
matrix: {n_catalog: $catalog, min_tracks: $min_tracks, min_truth_tracks: $min_tracks}
als: {d: $d, iterations: 6}
svd: {d: $d, oversampling: 10}
segments: {k: $segments}
network: {learning_rate: 1.0e-3, epochs: 12, batch_size: $batch}
evaluation: {min_slice_users: $slice}
""")


def example_settings(users: int, tracks: int) -> str:
    """Return the settings file for a service of so many listeners and tracks."""
    small = users < 5_000
    return _TEMPLATE.substitute(
        catalog=min(tracks, 4_000) if not small else max(1, tracks * 4 // 5),
        min_tracks=10 if small else 20,
        d=16 if small else 64,
        segments=12 if small else 100,
        batch=128 if small else 256,
        slice=10 if small else 30,
    )
