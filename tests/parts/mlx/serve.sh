#!/usr/bin/env bash
# A real mlx_lm.server with a tiny model: serve.sh DIR [nohub]
#   nohub  without the hub's cache folder: it then answers 200 and nothing on /v1/models
# Greets with its port and the model's folder. Commands: `kill`, `start`, `freeze`, `thaw`.
set -euo pipefail
source "$(dirname "$0")/../serve.sh"
source "$(dirname "$0")/../models.sh"

python=$cache/python/bin/python
needs "$python"
make_model() { "$python" "$parts/tiny_mlx.py" "$1"; }
make_once mlx "$parts/tiny_mlx.py" make_model
model=$made
port=$(free_port)
mkdir -p "$dir/home"
[ "${2:-}" = nohub ] || mkdir -p "$dir/hub"

answers() { fetch "http://127.0.0.1:$port/health"; }

do_start() {
  spawn mlx env HOME="$dir/home" HF_HUB_CACHE="$dir/hub" HF_HUB_OFFLINE=1 \
    "$python" -m mlx_lm.server --model "$model" --host 127.0.0.1 --port "$port"
  poll 60 "mlx_lm.server to answer on port $port" answers
}
do_kill() { halt mlx KILL; }
do_freeze() { kill -s STOP "$(cat "$dir/mlx.pid")"; }
do_thaw() { kill -s CONT "$(cat "$dir/mlx.pid")"; }

do_start
obey "$port $model"
