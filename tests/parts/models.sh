# Sourced by the scripts that serve engines: tiny models, made once and kept beside what `tests/run` built.

parts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

needs() {
  [ -e "$1" ] || { echo "missing: $1. Run ./tests/run, which builds it" >&2; exit 1; }
}

# fetch URL: fails unless it answers 200
fetch() { python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' "$1"; }

# make_once NAME SCRIPT MAKER: the folder of that name in the cache, made anew when the script that makes it changes.
# Sets `made` to its path. Tests run side by side: one makes it, the others wait.
make_once() {
  local name=$1 script=$2 maker=$3
  made=$cache/models/$name-$(cat "$script" "$0" | sha256sum | cut -c 1-12)
  mkdir -p "$cache/models"
  exec 7>"$cache/models/$name.lock"
  flock 7
  if [ ! -d "$made" ]; then
    rm -rf "$cache/models/.$name"
    mkdir "$cache/models/.$name"
    "$maker" "$cache/models/.$name" >"$dir/logs/make.log" 2>&1
    mv "$cache/models/.$name" "$made"
  fi
  exec 7>&-
}

# Ends every process that was started with the folder in its environment, whoever started it.
end_users_of() {
  local process
  for process in $(grep -lsF "$1/" /proc/[0-9]*/environ | cut -d / -f 3); do
    [ "$process" = $$ ] || kill -s KILL "$process" 2>/dev/null || true
  done
}

leave() {
  local status=$?
  [ $status = 0 ] || tail -n 5 -- "$dir"/logs/*.log >&2
  end_users_of "$dir"
  discard
}
trap leave EXIT
