#!/usr/bin/env bash
# up.sh DIR   runs an API server with the CRDs of Gateway API and our own until Ctrl-C, and prints how to reach it.
# Data, logs and the kubeconfig lie in DIR; what was applied is there again the next time.
# kubectl of the same release is .tools/bin/kubectl.
set -euo pipefail
if [ $# -ne 1 ]; then sed -n '2,4s/^# //p' "$0" >&2; exit 2; fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
hack/tools.sh kube
go build -o .tools/bin/kube-up ./internal/kubetest/up
exec .tools/bin/kube-up "$dir"
