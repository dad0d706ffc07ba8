#!/usr/bin/env bash
# A runner of Argo CD's scripts, from its Go modules: build.sh BIN
set -euo pipefail
cd "$(dirname "$0")"
go build -mod=mod -ldflags="-s -w" -o "$1/argo-scripts" .
