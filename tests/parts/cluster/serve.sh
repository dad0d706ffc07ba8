#!/usr/bin/env bash
# A real Kubernetes of one node, as root on Linux: serve.sh DIR; answers with the addresses of the host and of the node.
# Commands: see node.sh, which obeys them.
#
# All of it runs in network, mount and process namespaces of its own. When the first process in there ends, the kernel
# ends the others and drops mounts, addresses and packet filter rules, so that a node never leaves anything of that behind.
# What is outside of namespaces is made and removed here: one link, one control group, one folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/../serve.sh"

[ "$(id -u)" = 0 ] || { echo "a Kubernetes node needs root" >&2; exit 1; }

# The first number that no other node on this machine has.
taken() { ip link show "ostler$1" >/dev/null 2>&1; }
claim() {
  for ((n = 0; n < 64; n++)); do
    taken "$n" || ! ip link add "ostler$n" type veth peer name "ostler${n}node" 2>/dev/null || return 0
  done
  echo "64 nodes run here already: see \`ip link\`" >&2
  return 1
}

control_groups() { compgen -G "/sys/fs/cgroup/ostler$n" || compgen -G "/sys/fs/cgroup/*/ostler$n" || true; }
make_control_groups() {
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir "/sys/fs/cgroup/ostler$n"
  else
    local hierarchy # the kubelet wants its group in every one of them
    for hierarchy in $(awk '$3 == "cgroup" {print $2}' /proc/mounts); do mkdir -p "$hierarchy/ostler$n"; done
  fi
}
empty_control_groups() {
  local group
  for group in $(control_groups); do find "$group" -depth -type d -exec rmdir {} + || return 1; done
}

end() {
  ip link delete "ostler$n" 2>/dev/null || true
  poll 20 "the node's control groups to be empty" empty_control_groups || true
  discard
}

claim
trap end EXIT
make_control_groups
host=10.253.$n.1 node=10.253.$n.2

# The network namespace first, while this process can still be named from inside as the owner of the other end.
unshare --net --mount --propagation private "$here/network.sh" $$ "$n" "$host" "$node" \
  unshare --pid --fork --kill-child --mount-proc "$here/node.sh" "$dir" "$n" "$host" "$node"
