#!/usr/bin/env bash
# lint.sh   fails on what a reviewer should not have to say.
set -euo pipefail
cd "$(dirname "$0")/.."
unformatted=$(git ls-files -coz --exclude-standard '*.go' | xargs -0 gofmt -l)
[ -z "$unformatted" ] || { echo "gofmt -w is needed for:"; echo "$unformatted"; exit 1; }
go vet ./...
.tools/bin/staticcheck ./...
git ls-files -coz --exclude-standard '*.sh' .ci/run | xargs -0 .tools/bin/shellcheck --external-sources --source-path=SCRIPTDIR
fresh=$(mktemp -d); trap 'rm -rf "$fresh"' EXIT
.tools/bin/controller-gen object crd:allowDangerousTypes=true paths=./api/... output:dir="$fresh" output:crd:dir="$fresh/crds"
if ! diff -u api/v1alpha1/zz_generated.deepcopy.go "$fresh/zz_generated.deepcopy.go" ||
  ! diff -ru --exclude=kustomization.yaml manifests/crds "$fresh/crds"; then
  echo "make generate is needed"; exit 1
fi
