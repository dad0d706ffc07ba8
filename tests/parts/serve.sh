# Sourced by the scripts that serve a real part to a test.
#
# Such a script is started with a folder of its own, prints `ok` once the part serves, and then obeys commands on its
# standard input, one a line, each answered by one line: `ok …` or `error …`. `do_NAME` is the function of a command.
# When the input ends, however its writer died, the part and the folder go: nothing outlives the tests.

dir=$(mkdir -p "$1/logs" && cd "$1" && pwd)
cache=${OSTLER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ostler-tests}

# poll SECONDS WHAT COMMAND…: until the command succeeds
poll() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >"$dir/logs/poll.log" 2>&1; do
    if ((SECONDS >= deadline)); then
      echo "gave up waiting for $what: $(tail -n 3 "$dir/logs/poll.log" | tr '\n' ' ')" >&2
      (cd "$dir/logs" && tail -n 3 -- *.log | cut -c 1-300 >&2)
      return 1
    fi
    sleep 0.1
  done
}

# spawn NAME COMMAND…: in the background, its output in logs/NAME.log, its id in NAME.pid
spawn() {
  local name=$1
  shift
  "$@" </dev/null >>"$dir/logs/$name.log" 2>&1 &
  echo $! >"$dir/$name.pid"
  disown # it is ended by `halt`, and bash need not announce that
}

is_running() { [ -f "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; }
is_gone() { ! is_running "$1"; }

# halt NAME [SIGNAL]: what `spawn` started, and not before it is gone
halt() {
  is_running "$1" || { rm -f "$dir/$1.pid"; return 0; }
  kill -s "${2:-TERM}" "$(cat "$dir/$1.pid")"
  poll 20 "$1 to end" is_gone "$1" || { kill -s KILL "$(cat "$dir/$1.pid")"; poll 10 "$1 to be killed" is_gone "$1"; }
  rm -f "$dir/$1.pid"
}

free_port() {
  python3 - <<'PORT'
import random, socket
while True:
    # Above the ports of examples and engines, below what the kernel gives to whoever asks for any port: what is stopped for a while finds its port free again.
    port = random.randrange(22000, 32768)
    try:
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
        print(port)
        break
    except OSError:
        pass
PORT
}

# discard: the folder, kept where OSTLER_TEST_KEEP says that somebody wants to read the logs
discard() { [ -n "${OSTLER_TEST_KEEP:-}" ] || rm -rf "$dir"; }

# obey [WORDS]: answers `ok WORDS`, then commands until there are no more
obey() {
  local command arguments
  echo "ok ${1:-}"
  while read -r command arguments; do
    if ! declare -F "do_$command" >/dev/null; then
      echo "error no such command: $command"
    elif "do_$command" $arguments >"$dir/logs/answer.log" 2>&1; then
      echo "ok $(tail -n 1 "$dir/logs/answer.log")"
    else
      echo "error $command $arguments: $(tail -n 5 "$dir/logs/answer.log" | tr '\n' ' ')"
    fi
  done
}

trap 'exit 143' TERM INT HUP
