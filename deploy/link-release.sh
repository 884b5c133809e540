#!/usr/bin/env bash
# Makes target/release/PROGRAM in the clone point at the build, wherever the target directory is.
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(realpath -m "$1")
shift
if [ "$built" != "$(realpath -m target)" ]; then
  mkdir -p target/release
  for program in "$@"; do ln -sfn "$built/release/$program" "target/release/$program"; done
fi
