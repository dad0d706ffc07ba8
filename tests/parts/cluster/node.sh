#!/usr/bin/env bash
# The first process in the node's namespaces: node.sh DIR NUMBER HOST NODE
# Commands: `stop` and `start` the API server, `import TAR` an image.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/../serve.sh"
source "$here/control-plane.sh"
n=$2 host=$3 node=$4
bin=$cache/bin pods=10.244.$n.0/24 services=10.96.$n

# What these daemons keep in fixed places is the node's own.
for place in /run /var/lib /var/log; do mount -t tmpfs tmpfs "$place"; done
mkdir -p /run/lock "$dir"/{containers,cni}

do_start() {
  start_api_server 2379 0.0.0.0 6443 --advertise-address="$node" --service-cluster-ip-range="$services.0/24" \
    --kubelet-preferred-address-types=InternalIP --kubelet-client-certificate="$dir/pki/admin.crt" --kubelet-client-key="$dir/pki/admin.key"
}
do_stop() { halt kube-apiserver; }
images() { ctr --address "$dir/containers/containerd.sock" --namespace k8s.io images "$@"; }
do_import() { images import "$1"; }

start_controllers() {
  local flags=(--kubeconfig="$dir/kubeconfig" --authentication-kubeconfig="$dir/kubeconfig" --authorization-kubeconfig="$dir/kubeconfig"
    --leader-elect=false --bind-address=127.0.0.1 --cert-dir="$dir/pki")
  spawn kube-controller-manager "$bin/kube-controller-manager" "${flags[@]}" --service-account-private-key-file="$dir/pki/accounts.key" \
    --root-ca-file="$dir/pki/ca.crt" --use-service-account-credentials
  spawn kube-scheduler "$bin/kube-scheduler" "${flags[@]}"
}

start_proxy() {
  cat >"$dir/proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $pods
clientConnection: {kubeconfig: $dir/kubeconfig}
conntrack: {maxPerCore: 0}
END
  spawn kube-proxy "$bin/kube-proxy" --config "$dir/proxy.yaml" --hostname-override node
}

# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc can't lower the score, and every sandbox fails with
# "can't get final child's PID from pipe: EOF".
start_containerd() {
  cat >"$dir/cni/10-ptp.conflist" <<END
{"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "ptp", "ipMasq": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
END
  cat >"$dir/containerd.toml" <<END
version = 2
root = "$dir/containers/root"
state = "/run/containerd"
[grpc]
  address = "$dir/containers/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/local/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
END
  spawn containerd containerd --config "$dir/containerd.toml"
  poll 20 containerd images list
}

# One program makes both images: busybox, and the pause container's as busybox asleep.
import_busybox() {
  local image=(python3 "$here/../../../scripts/image.py") links=() name
  for name in sh sleep cat dd tail head grep httpd wget nc env ls ps kill; do links+=(--link "/bin/$name=busybox"); done
  "${image[@]}" "$dir/busybox.tar" docker.io/local/busybox:1 --file "$(command -v busybox)=/bin/busybox" "${links[@]}" \
    --text $'/etc/passwd=root:x:0:0::/:/bin/sh\n' --run
  "${image[@]}" "$dir/pause.tar" docker.io/local/pause:1 --file "$(command -v busybox)=/bin/busybox" --run /bin/busybox sleep 1000000000
  images import "$dir/busybox.tar" >/dev/null
  images import "$dir/pause.tar" >/dev/null
  rm "$dir/busybox.tar" "$dir/pause.tar"
}

start_kubelet() {
  cat >"$dir/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $dir/pki/ca.crt}}
authorization: {mode: Webhook}
readOnlyPort: 0
cgroupDriver: cgroupfs
cgroupRoot: /ostler$n
enforceNodeAllocatable: []
failSwapOn: false
failCgroupV1: false
oomScoreAdj: 0
resolvConf: ""
containerRuntimeEndpoint: unix://$dir/containers/containerd.sock
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
END
  spawn kubelet "$bin/kubelet" --config "$dir/kubelet.yaml" --kubeconfig "$dir/kubeconfig" --root-dir "$dir/kubelet" --hostname-override node \
    --node-ip "$node" --cert-dir "$dir/pki"
  poll 60 "the node to be ready" kubectl wait --for=condition=Ready node/node --timeout=1s
  poll 30 "the default service account" kubectl get serviceaccount default
}

certificates 127.0.0.1 "$node" "$services.1"
kubeconfig "https://$node:6443"
start_etcd 2379 2380
do_start
start_controllers
start_proxy
start_containerd
import_busybox
start_kubelet
obey "$host $node"
