#!/usr/bin/env bash
# Ostler's container image: ostler.sh BINARY NAME OUT
# The binary without its debug symbols, the libraries it needs, CA certificates and time zones; nothing else, and nobody is root.
set -euo pipefail
stripped=$(mktemp)
trap 'rm -f "$stripped"' EXIT
strip -o "$stripped" "$1"
chmod 755 "$stripped"
python3 "$(dirname "$0")/image.py" "$3" "$2" \
  --file "$stripped=/bin/ostler" \
  --file /etc/ssl/certs/ca-certificates.crt=/etc/ssl/certs/ca-certificates.crt \
  --folder /usr/share/zoneinfo=/usr/share/zoneinfo \
  --text '/etc/passwd=ostler:x:65532:65532::/tmp:/bin/ostler
' --user 65532:65532 --run /bin/ostler
