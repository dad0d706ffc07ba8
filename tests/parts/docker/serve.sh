#!/usr/bin/env bash
# A Docker engine with its socket in DIR/docker.sock, as root on Linux: serve.sh DIR
# Commands: see engine.sh, which obeys them.
#
# It runs in network, mount and process namespaces of its own: when the first process in there ends, the kernel ends the
# containers and drops bridges, rules and mounts. Outside of those is one control group and one folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/../serve.sh"

[ "$(id -u)" = 0 ] || { echo "a Docker engine needs root" >&2; exit 1; }
group=ostler-docker-$$

control_groups() { compgen -G "/sys/fs/cgroup/$group" || compgen -G "/sys/fs/cgroup/*/$group" || true; }
empty_control_groups() {
  local found
  for found in $(control_groups); do find "$found" -depth -type d -exec rmdir {} + || return 1; done
}

end() {
  poll 20 "the engine's control groups to be empty" empty_control_groups || true
  discard
}
trap end EXIT

unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc "$here/engine.sh" "$dir" "$group"
