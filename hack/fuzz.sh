#!/usr/bin/env bash
# fuzz.sh DURATION   runs every fuzz target of the module for DURATION, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."
git grep -l '^func Fuzz' -- '*_test.go' | xargs -n1 dirname | sort -u | while read -r dir; do
  sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir"/*_test.go | while read -r target; do
    echo "== $dir $target"
    go test "./$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${1:-1m}"
  done
done
