# shellcheck shell=bash
# What up.sh, demo.sh and down.sh have in common. They stand in the root of the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CLUSTER=${CLUSTER:-evenkeel}
export IMAGE=localhost/evenkeel/controlplane:dev   # where podman tags it whatever it is told
export PATH=$PWD/.tools/bin:$PATH

say() { printf '\n== %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# need PROGRAM WHERE_TO_GET_IT
need() { command -v "$1" >/dev/null || die "$1 is not installed: $2"; }

need_kind() {
  need kind "https://kind.sigs.k8s.io has it, or: go install sigs.k8s.io/kind@latest"
  need kubectl "https://kubernetes.io/docs/tasks/tools has it, or: hack/tools.sh kube"
}

exists() { kind get clusters 2>/dev/null | grep -qx "$CLUSTER"; }

# k is kubectl on this cluster, whatever the current context is.
k() { kubectl --context "kind-$CLUSTER" "$@"; }

# controlplane runs one of its commands in a replica.
controlplane() { k --namespace evenkeel-system exec deployment/evenkeel-controlplane -- controlplane "$@"; }
