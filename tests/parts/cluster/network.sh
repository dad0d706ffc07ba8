#!/usr/bin/env bash
# Runs in the node's new network namespace: network.sh OUTSIDE-PID NUMBER HOST NODE COMMAND…
# Takes the node's end of the link, gives the host routes to pods and services, then becomes COMMAND.
set -euo pipefail
outside=$1 n=$2 host=$3 node=$4
shift 4
host_ip() { nsenter --target "$outside" --net ip "$@"; }

nsenter --target "$outside" --net ip link set "ostler${n}node" netns $$
ip link set lo up
ip address add "$node/30" dev "ostler${n}node"
ip link set "ostler${n}node" up
host_ip address add "$host/30" dev "ostler$n"
host_ip link set "ostler$n" up
host_ip route add "10.244.$n.0/24" via "$node"
host_ip route add "10.96.$n.0/24" via "$node"
ip route add default via "$host"
echo 1 >/proc/sys/net/ipv4/ip_forward
exec "$@"
