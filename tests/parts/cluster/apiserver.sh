#!/usr/bin/env bash
# etcd and an API server on the loopback interface, nothing that acts on objects: apiserver.sh DIR
# Commands: `stop` and `start` (on the same port) the API server. Honors KUBEBUILDER_ASSETS.
set -euo pipefail
here=$(dirname "$0")
source "$here/../serve.sh"
source "$here/control-plane.sh"

bin=${KUBEBUILDER_ASSETS:-$cache/bin}
etcd=$(free_port) peer=$(free_port) port=$(free_port)

do_start() { start_api_server "$etcd" 127.0.0.1 "$port" --service-cluster-ip-range=10.0.0.0/24 --endpoint-reconciler-type=none; }
do_stop() { halt kube-apiserver; }

trap 'halt kube-apiserver KILL; halt etcd KILL; discard' EXIT
certificates 127.0.0.1
kubeconfig "https://127.0.0.1:$port"
start_etcd "$etcd" "$peer"
do_start
obey
