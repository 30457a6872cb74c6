#!/usr/bin/env bash
# down.sh   removes the cluster of up.sh and its certificates.
. "$(dirname "$0")/lib.sh"
need kind "then there is no cluster to remove either"
if exists; then
  kind delete cluster --name "$CLUSTER"
else
  say "there is no cluster $CLUSTER"
fi
rm -rf "${KIND_DIR:-.kind}/pki"
