#!/usr/bin/env bash
# lint.sh   fails on what a reviewer should not have to say.
set -euo pipefail
cd "$(dirname "$0")/.."
unformatted=$(gofmt -l $(git ls-files -co --exclude-standard '*.go'))
[ -z "$unformatted" ] || { echo "gofmt -w is needed for:"; echo "$unformatted"; exit 1; }
go vet ./...
.tools/bin/staticcheck ./...
fresh=$(mktemp -d); trap 'rm -rf "$fresh"' EXIT
.tools/bin/controller-gen object crd:allowDangerousTypes=true paths=./api/... output:dir="$fresh" output:crd:dir="$fresh/crds"
diff -u api/v1alpha1/zz_generated.deepcopy.go "$fresh/zz_generated.deepcopy.go" &&
  diff -ru --exclude=kustomization.yaml manifests/crds "$fresh/crds" || { echo "make generate is needed"; exit 1; }
