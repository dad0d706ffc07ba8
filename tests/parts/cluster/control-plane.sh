# Sourced after ../serve.sh: etcd and the API server, with certificates of their own, from $bin.

kubectl() { "$bin/kubectl" --kubeconfig "$dir/kubeconfig" "$@"; }

certificate() { # NAME SUBJECT ALTERNATIVE-NAMES
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$dir/pki/$1.key" -out "$dir/pki/$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$dir/pki/$1.csr" -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" -CAcreateserial -out "$dir/pki/$1.crt" -days 30 \
    -extfile <(echo "subjectAltName=$3") 2>/dev/null
}

# certificates ADDRESS…: where the API server will be found
certificates() {
  mkdir -p "$dir/pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt" \
    -subj /CN=ostler-test -days 30 2>/dev/null
  certificate apiserver /CN=kube-apiserver "DNS:kubernetes.default.svc$(printf ',IP:%s' "$@")"
  certificate admin /O=system:masters/CN=admin DNS:admin
  certificate accounts /CN=service-accounts DNS:service-accounts
}

# kubeconfig SERVER: as admin
kubeconfig() {
  cat >"$dir/kubeconfig" <<END
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "$1", certificate-authority: $dir/pki/ca.crt}}]
users: [{name: admin, user: {client-certificate: $dir/pki/admin.crt, client-key: $dir/pki/admin.key}}]
contexts: [{name: test, context: {cluster: test, user: admin}}]
current-context: test
END
}

# start_etcd CLIENT-PORT PEER-PORT
start_etcd() {
  local client=http://127.0.0.1:$1 peer=http://127.0.0.1:$2
  spawn etcd "$bin/etcd" --data-dir "$dir/etcd" --unsafe-no-fsync --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
}

# start_api_server ETCD-PORT ADDRESS PORT FLAGS…
# logs/audit.log has a line for everything that a service account writes, so that tests can count it.
start_api_server() {
  local etcd=$1 address=$2 port=$3
  shift 3
  cat >"$dir/audit.yaml" <<END
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: None, resources: [{group: authentication.k8s.io}, {group: authorization.k8s.io}]}
- {level: Metadata, userGroups: ["system:serviceaccounts"], verbs: [create, update, patch, delete, deletecollection]}
END
  spawn kube-apiserver "$bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$etcd" --bind-address="$address" --secure-port="$port" \
    --cert-dir="$dir/pki" --tls-cert-file="$dir/pki/apiserver.crt" --tls-private-key-file="$dir/pki/apiserver.key" \
    --audit-policy-file="$dir/audit.yaml" --audit-log-path="$dir/logs/audit.log" --client-ca-file="$dir/pki/ca.crt" \
    --authorization-mode=RBAC --allow-privileged --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$dir/pki/accounts.crt" \
    --service-account-signing-key-file="$dir/pki/accounts.key" "$@"
  poll 60 "the API server" kubectl get --raw /readyz
}
