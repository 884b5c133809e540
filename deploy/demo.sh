#!/usr/bin/env bash
# One project, one interactive shell that greets: what `make up` leaves running.
set -euo pipefail
stratavore=$1
project=demo

"$stratavore" projects -o json | grep -q "\"name\": *\"$project\"" || "$stratavore" new "$project" --path "$HOME" >&2

if ! "$stratavore" runners --project "$project" -o json | grep -q "\"name\": *\"$project-shell\""; then
  "$stratavore" launch "$project" --name "$project-shell" --detach -- \
    bash -c 'printf "\nWelcome to Stratavore: this shell runs under a shim on %s.\nDetach with Ctrl-] then d; it goes on.\n\n" "$(hostname)"; exec bash -i' >&2
fi
"$stratavore" wait "$project-shell" --for running --timeout 60s >&2

printf 'A shell is running. Next:\n'
printf 'run: %s attach\n' "$stratavore"
printf 'run: %s status\n' "$stratavore"
printf 'run: %s down\n' "$stratavore"
