# Sourced by tests/run: what the real parts need, found, installed or built.

cache=${OSTLER_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ostler-tests}
parts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# What is looked for (a command or a path), and the Debian package that has it.
wanted='
postgresql /usr/lib/postgresql/*/bin/initdb
containerd containerd
docker.io dockerd
runc runc
containernetworking-plugins /usr/lib/cni/ptp
busybox-static busybox
chromium chromium
fonts-dejavu-core /usr/share/fonts/truetype/dejavu
openssl openssl
iptables iptables
iproute2 ip
util-linux unshare
binutils strip
prometheus promtool
systemd systemd-analyze
g++ g++
nlohmann-json3-dev /usr/include/nlohmann/json.hpp
libstb-dev /usr/include/stb/stb_image.h
python3 python3
python3-venv python3:ensurepip
tzdata /usr/share/zoneinfo/Asia/Kathmandu
'

has() {
  case $1 in
    python3:*) python3 -c "import ${1#python3:}" 2>/dev/null ;;
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

missing_packages() {
  local package thing
  while read -r package thing; do
    [ -z "$package" ] || has "$thing" || echo "$package"
  done <<<"$wanted"
}

# Installs Debian packages, and nothing that they would start as a service: `tests/run` starts nothing that outlives it.
install_packages() {
  local policy=/usr/sbin/policy-rc.d ours=
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && ours=yes; }
  local failed=0
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; } || failed=1
  [ -z "$ours" ] || rm -f "$policy"
  return $failed
}

# Installs what is missing, or says what to install and fails.
ensure_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} = 0 ] && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    step "install ${missing[*]}" install_packages "${missing[@]}"
  else
    fail "missing: ${missing[*]} (names of Debian packages). Install them, or run this as root on Debian; \`tests/run quick\` needs none of them"
  fi
}

ensure_tools() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || fail "$tool is not in PATH: install $(case $tool in
      cargo) echo 'Rust 1.95 or newer (https://rustup.rs)' ;;
      go) echo 'Go 1.26 or newer (https://go.dev/dl)' ;;
      *) echo "$tool" ;;
    esac)"
  done
}

# The real parts run in namespaces of their own: only root may make those, and only Linux has them.
ensure_linux_root() {
  [ "$(uname -s)" = Linux ] || fail "the real parts run on Linux only; here \`tests/run quick\` runs what needs none"
  [ "$(id -u)" = 0 ] || fail "a real Kubernetes node needs root: run this as root, or \`tests/run quick\`"
}

# build_part NAME: unless what it is built from is what it was built from last time
build_part() {
  local name=$1 stamp=$cache/stamps/$1 now
  now=$(cd "$parts/$name" && cat build.sh ./*.txt ./*.go go.* 2>/dev/null | sha256sum)
  exec 8>"$cache/stamps/$name.lock"
  flock 8
  if [ "$(cat "$stamp" 2>/dev/null)" != "$now" ]; then
    echo "tests: building $name"
    "$parts/$name/build.sh" "$cache/bin" && echo "$now" >"$stamp"
  fi
}

# One after another: each of them takes the whole machine.
build_parts() {
  mkdir -p "$cache/bin" "$cache/stamps"
  local name
  for name in argo python cluster ollama helm compose; do
    (build_part "$name") || { echo "tests: can't build $name (tests/parts/$name/build.sh)"; return 1; }
  done
}
