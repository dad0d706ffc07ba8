#!/usr/bin/env bash
# A PostgreSQL server: serve.sh DIR [ADDRESS]
#   ADDRESS  listens there besides 127.0.0.1, and trusts its subnet: for pods
# Commands: `database NAME` makes one, `stop`, `kill` (as if the server had crashed), `start` (on the same port).
set -euo pipefail
source "$(dirname "$0")/../serve.sh"

address=${2:-}
port=$(free_port)
bin=$(dirname "$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | sort -V | tail -n 1)")
[ "$bin" != . ] || bin=$(pg_config --bindir)

# PostgreSQL refuses to run as root.
as_user=()
if [ "$(id -u)" = 0 ]; then
  as_user=(setpriv --reuid=postgres --regid=postgres --init-groups)
  chown postgres: "$dir" "$dir/logs"
fi
cd "$dir"

answers() { "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; }

do_start() {
  spawn postgres "${as_user[@]}" "$bin/postgres" -D "$dir/data" -k "$dir" -p "$port" -c "listen_addresses=127.0.0.1${address:+,$address}" \
    -c fsync=off -c max_connections=200 -c shared_buffers=32MB
  poll 30 "PostgreSQL to answer on port $port" answers
}
do_stop() { halt postgres INT; }
do_kill() { halt postgres QUIT; }
do_database() { "$bin/createdb" -h 127.0.0.1 -p "$port" -U ostler "$1"; }

trap 'halt postgres QUIT; discard' EXIT
"${as_user[@]}" "$bin/initdb" -D "$dir/data" -U ostler -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$dir/logs/initdb.log" 2>&1 ||
  { cat "$dir/logs/initdb.log" >&2; exit 1; }
[ -z "$address" ] || echo "host all all samenet trust" >>"$dir/data/pg_hba.conf"
do_start
obey "$port"
