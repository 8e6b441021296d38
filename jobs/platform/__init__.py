"""What every job uses: context, lake, Spark session, week, files, progress and figures."""
