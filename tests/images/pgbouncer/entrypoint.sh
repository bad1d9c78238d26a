#!/bin/sh
# Writes pgbouncer's two files from the environment, then becomes pgbouncer.
set -eu

folder=/etc/pgbouncer

if [ ! -e "$folder/userlist.txt" ]; then
  printf '"%s" "%s"\n' "${DB_USER:-postgres}" "$(printf '%s' "${DB_PASSWORD:-}" | sed 's/"/""/g')" >"$folder/userlist.txt"
fi

if [ ! -e "$folder/pgbouncer.ini" ]; then
  cat >"$folder/pgbouncer.ini" <<INI
[databases]
${DB_NAME:-*} = host=${DB_HOST:?DB_HOST is not set} port=${DB_PORT:-5432} auth_user=${DB_USER:-postgres}

[pgbouncer]
listen_addr = ${LISTEN_ADDR:-0.0.0.0}
listen_port = ${LISTEN_PORT:-5432}
unix_socket_dir = /var/run/pgbouncer
auth_type = ${AUTH_TYPE:-scram-sha-256}
auth_file = $folder/userlist.txt
pool_mode = ${POOL_MODE:-transaction}
max_client_conn = ${MAX_CLIENT_CONN:-200}
default_pool_size = ${DEFAULT_POOL_SIZE:-20}
min_pool_size = ${MIN_POOL_SIZE:-0}
server_login_retry = ${SERVER_LOGIN_RETRY:-15}
ignore_startup_parameters = ${IGNORE_STARTUP_PARAMETERS:-extra_float_digits}
admin_users = ${ADMIN_USERS:-${DB_USER:-postgres}}
INI
fi

exec "$@"
