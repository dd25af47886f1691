#!/bin/sh
# Starts PostgreSQL with a limit on what each session may take. Arguments go to the server.
set -eu

# A query that needs more fails alone, instead of the whole server. The container's limit is for all sessions together.
limit=$((MEMORY_KIB / SESSIONS_PER_MEMORY))
[ "$limit" -ge 65536 ] || limit=65536
ulimit -d "$limit"

# The release before this one starts the server without these arguments. After a `helm rollback` it finds the certificate on
# the volume, because trials that run go on to demand it. (cp -f: what an earlier start has copied is read-only.)
if [ -n "${TLS_DIRECTORY:-}" ] && [ -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA/study-operator"
  cp -f "$TLS_DIRECTORY/tls.crt" "$TLS_DIRECTORY/tls.key" "$PGDATA/study-operator/"
  chmod 0600 "$PGDATA/study-operator/tls.key"
  cat >"$PGDATA/study-operator/tls.conf" <<END
ssl = on
ssl_cert_file = 'study-operator/tls.crt'
ssl_key_file = 'study-operator/tls.key'
END
  grep -q "^include_if_exists = 'study-operator/tls.conf'" "$PGDATA/postgresql.conf" ||
    echo "include_if_exists = 'study-operator/tls.conf'" >>"$PGDATA/postgresql.conf"
fi

# PostgreSQL takes only a key that nobody else may read, whoever owns the volume of the Secret.
if [ -n "${TLS_DIRECTORY:-}" ]; then
  cp -f "$TLS_DIRECTORY/tls.crt" "$TLS_DIRECTORY/tls.key" /tmp/
  chmod 0600 /tmp/tls.key
  set -- -c ssl=on -c ssl_cert_file=/tmp/tls.crt -c ssl_key_file=/tmp/tls.key "$@"
fi
cp -f /etc/study-operator/database/pg_hba.conf /tmp/pg_hba.conf
exec docker-entrypoint.sh postgres -c hba_file=/tmp/pg_hba.conf "$@"
