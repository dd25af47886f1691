#!/bin/bash
# The contract of the official PostgreSQL image, for Debian's packages: POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE),
# POSTGRES_USER, POSTGRES_DB, PGDATA; arguments that begin with a dash go to the server.
set -euo pipefail

if [[ "${1:-}" == -* ]]; then
  set -- postgres "$@"
fi
if [[ "$1" != postgres ]]; then
  exec "$@"
fi
if [[ "$(id -u)" == 0 ]]; then
  echo "error: PostgreSQL does not run as root; run this image as user 999" >&2
  exit 1
fi

mkdir -p "$PGDATA"
chmod 0700 "$PGDATA" 2>/dev/null || true # a volume's own directory belongs to the node; PostgreSQL says if it matters

# A database is made in .initdb and moved up when complete, PG_VERSION last: so a first start that was cut off leaves
# .initdb without PG_VERSION beside it, and nothing then in the directory is worth keeping.
fresh="$PGDATA/.initdb"
if [[ ! -s "$PGDATA/PG_VERSION" ]]; then
  if [[ -e "$fresh" ]]; then
    find "$PGDATA" -mindepth 1 -delete
  fi
  user="${POSTGRES_USER:-postgres}"
  if [[ -n "${POSTGRES_PASSWORD_FILE:-}" ]]; then
    POSTGRES_PASSWORD="$(<"$POSTGRES_PASSWORD_FILE")"
  fi
  if [[ -z "${POSTGRES_PASSWORD:-}" ]]; then
    echo "error: no database yet in $PGDATA, and POSTGRES_PASSWORD is not set: set it for the first start" >&2
    exit 1
  fi
  initdb --pgdata="$fresh" --username="$user" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
    --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
  echo "host all all all scram-sha-256" >>"$fresh/pg_hba.conf"
  database="${POSTGRES_DB:-$user}"
  if [[ "$database" != postgres ]]; then
    printf 'CREATE DATABASE "%s";\n' "${database//\"/\"\"}" | postgres --single -D "$fresh" postgres >/dev/null
  fi
  find "$fresh" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv -t "$PGDATA" {} +
  mv "$fresh/PG_VERSION" "$PGDATA/"
fi
rm -rf "$fresh"

shift
exec postgres -c listen_addresses='*' "$@"
