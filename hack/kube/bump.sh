#!/usr/bin/env bash
# bump.sh VERSION   moves go.mod and go.sum of this folder to another release of Kubernetes, such as 1.36.3.
# Kubernetes replaces the modules it is made of by folders of its own repository; from outside they are the
# published modules of the same release, v0.<minor>.<patch>.
set -euo pipefail
cd "$(dirname "$0")"
version=${1:?usage: bump.sh VERSION}; version=${version#v}
export GOWORK=off GOFLAGS=-mod=mod

theirs=$(cd / && go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
cat >go.mod <<END
module evenkeel.io/controlplane/hack/kube

go $(sed -n 's/^go //p' "$theirs")

tool (
	go.etcd.io/etcd/server/v3
	k8s.io/kubernetes/cmd/kube-apiserver
	k8s.io/kubernetes/cmd/kubectl
)

require k8s.io/kubernetes v$version

replace (
$(sed -n "s|^.*\(k8s.io/[a-z-]*\) => ./staging/.*|\t\1 => \1 v0.${version#*.}|p" "$theirs")
)
END
rm -f go.sum
go mod tidy
