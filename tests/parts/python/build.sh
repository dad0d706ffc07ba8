#!/usr/bin/env bash
# A Python environment with the MLX server, what writes tiny models, what generates API clients, a mail server and what drives a browser: build.sh BIN (a minute; it goes beside BIN)
set -euo pipefail
cd "$(dirname "$0")"
python3 -m venv "$1/../python"
"$1/../python/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
