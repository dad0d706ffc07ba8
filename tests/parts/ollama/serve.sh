#!/usr/bin/env bash
# A real Ollama with two tiny models, `tiny` and `other`: serve.sh DIR [idle]
#   idle  not started: for tests whose subject starts it, with OLLAMA_HOST, OLLAMA_MODELS and HOME as they are in DIR/environment
# Greets with its port. DIR/models is its own copy, DIR/empty has none: the folder of a wrong user.
# Commands: `start`, `start_empty`, `stop`, `kill`, `freeze` (its runners stand still), `thaw`, `runners` (their process ids).
set -euo pipefail
source "$(dirname "$0")/../serve.sh"
source "$(dirname "$0")/../models.sh"

ollama=$cache/bin/ollama
python=$cache/python/bin/python
needs "$ollama"
needs "$python"

answers() { fetch "http://127.0.0.1:$1/api/version"; }
# environment PORT MODELS: sets `env`
environment() { env=(env OLLAMA_HOST="127.0.0.1:$1" OLLAMA_MODELS="$2" HOME="$dir/home"); }

# make_models FOLDER: by a server that runs only for this
make_models() {
  local port seed=1 name env
  port=$(free_port)
  environment "$port" "$1"
  spawn maker "${env[@]}" "$ollama" serve
  poll 30 "Ollama to answer on port $port" answers "$port"
  for name in tiny other; do
    # Of a seed of its own: names of one file would share a runner.
    "$python" "$parts/tiny_gguf.py" "$dir/$name.gguf" $((seed++))
    # More threads than cores spin while they wait, and the tests run side by side.
    printf 'FROM %s\nPARAMETER num_thread 1\n' "$dir/$name.gguf" >"$dir/Modelfile"
    "${env[@]}" "$ollama" create "$name" -f "$dir/Modelfile" >>"$dir/logs/create.log" 2>&1
    rm "$dir/$name.gguf" "$dir/Modelfile"
  done
  halt maker
}

mkdir -p "$dir/home" "$dir/empty"
make_once ollama "$parts/tiny_gguf.py" make_models
cp -a "$made" "$dir/models"
port=$(free_port)
printf 'OLLAMA_HOST=127.0.0.1:%s\nOLLAMA_MODELS=%s\nHOME=%s\n' "$port" "$dir/models" "$dir/home" >"$dir/environment"

serve() {
  local env
  environment "$port" "$1"
  spawn ollama "${env[@]}" "$ollama" serve
  poll 30 "Ollama to answer on port $port" answers "$port"
}
runners() {
  local process
  for process in $(grep -lsF "$dir/" /proc/[0-9]*/environ | cut -d / -f 3); do
    if tr '\0' '\n' 2>/dev/null <"/proc/$process/cmdline" | grep -qx runner; then echo "$process"; fi
  done
}
signal_runners() {
  local process
  for process in $(runners); do kill -s "$1" "$process"; done
}

do_start() { serve "$dir/models"; }
do_start_empty() { serve "$dir/empty"; }
do_stop() { halt ollama; }
do_kill() { halt ollama KILL; }
do_freeze() { signal_runners STOP; }
do_thaw() { signal_runners CONT; }
do_runners() { runners | xargs; }

[ "${2:-}" = idle ] || do_start
obey "$port"
