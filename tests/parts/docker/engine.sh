#!/usr/bin/env bash
# The first process in the engine's namespaces: engine.sh DIR GROUP
# Commands: `stop` the engine (its containers with it) and `start` it, `kill` it as if it had crashed, `freeze` and `thaw` it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/../serve.sh"
group=$2
export DOCKER_HOST=unix://$dir/docker.sock DOCKER_CONFIG=$dir/config

# What these daemons keep in fixed places is this engine's own.
for place in /run /var/lib; do mount -t tmpfs tmpfs "$place"; done
mkdir -p "$dir/config"
ip link set lo up

answers() { docker version; }
is_dead() { ! kill -0 "$1" 2>/dev/null; }
# --oom-score-adjust: without CAP_SYS_RESOURCE the engine can't lower its own score.
do_start() {
  rm -f "$dir/docker.pid"
  spawn dockerd dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/docker.pid" --host "$DOCKER_HOST" \
    --config-file "$dir/daemon.json" --storage-driver vfs --cgroup-parent "/$group" --oom-score-adjust 0 --shutdown-timeout 5
  poll 60 "the engine to answer" answers
}
do_stop() { halt dockerd; }
# Its containerd goes with it: the kernel kills it when its parent dies. The containers' own processes stay for the next
# engine to find.
do_kill() {
  local containerd
  containerd=$(cat "$dir/exec/containerd/containerd.pid")
  halt dockerd KILL
  poll 10 "containerd to end" is_dead "$containerd"
}
do_freeze() { kill -s STOP "$(cat "$dir/dockerd.pid")"; }
do_thaw() { kill -s CONT "$(cat "$dir/dockerd.pid")"; }

load_busybox() {
  local links=() name
  for name in sh sleep cat dd tail head grep echo env ls ps kill test; do links+=(--link "/bin/$name=busybox"); done
  python3 "$here/../../../scripts/image.py" "$dir/busybox.tar" local/busybox:1 --file "$(command -v busybox)=/bin/busybox" "${links[@]}" \
    --text $'/etc/passwd=root:x:0:0::/:/bin/sh\n' --run
  docker load --quiet --input "$dir/busybox.tar" >/dev/null
  rm "$dir/busybox.tar"
}

echo '{}' >"$dir/daemon.json"
do_start
load_busybox
obey "$dir/docker.sock"
