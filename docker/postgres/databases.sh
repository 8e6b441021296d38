#!/bin/sh
# Run once, on an empty volume: a database and an owner each for Airflow and MLflow.
set -eu

for name in airflow mlflow; do
  case "$name" in
    airflow) password=$AIRFLOW_DB_PASSWORD ;;
    mlflow) password=$MLFLOW_DB_PASSWORD ;;
  esac
  psql --username "$POSTGRES_USER" --dbname postgres --set ON_ERROR_STOP=1 \
    --set name="$name" --set password="$password" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
SQL
done
