#!/usr/bin/env bash
# up.sh   a kind cluster with Gateway API and Evenkeel. Run it again to bring in what was changed.
#   CLUSTER    its name (evenkeel)
#   KIND_DIR   where the certificates are kept (.kind)
. "$(dirname "$0")/lib.sh"
PKI=${KIND_DIR:-.kind}/pki

need go "Go 1.26 builds the program and knows where Gateway API's CRDs are"
need_kind
if command -v docker >/dev/null; then engine=docker
elif command -v podman >/dev/null; then engine=podman; export KIND_EXPERIMENTAL_PROVIDER=podman
else die "there is neither docker nor podman, and kind needs one of them"
fi
"$engine" info >/dev/null 2>&1 || die "$engine does not answer: is it running, and may you use it?"

if exists; then
  say "the cluster $CLUSTER is there"
else
  say "making the cluster $CLUSTER"
  kind create cluster --name "$CLUSTER" --config hack/kind/cluster.yaml --wait 2m
fi

say "building and loading $IMAGE"
make --no-print-directory image ENGINE="$engine"
archive=$(mktemp); trap 'rm -f "$archive"' EXIT
"$engine" save --output "$archive" "$IMAGE"   # what docker and podman both can
kind load image-archive --name "$CLUSTER" "$archive"

say "installing Gateway API $(go list -m -f '{{.Version}}' sigs.k8s.io/gateway-api)"
k apply --server-side --filename "$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/standard"
k wait --for condition=Established --timeout 1m crd/gatewayclasses.gateway.networking.k8s.io

say "installing Evenkeel, with certificates from $PKI"
k apply --server-side --filename manifests/base/namespace.yaml --filename manifests/examples/envoy/namespace.yaml
make --no-print-directory build
(umask 077 && mkdir -p "$PKI")
bin/controlplane certgen --dir "$PKI" --fleet shop/edge --secrets | k apply --server-side --filename -
k apply --server-side --kustomize manifests/overlays/kind
# The tag of the image stays the same, so nothing else tells the Pods that there is another behind it.
k --namespace evenkeel-system rollout restart deployment/evenkeel-controlplane
k --namespace evenkeel-system rollout status deployment/evenkeel-controlplane --timeout 3m

say "up. Next: hack/kind/demo.sh"
