#!/usr/bin/env bash
# demo.sh   uneven servers, two Envoys and a load in the cluster of up.sh: a minute with equal weights, then a
# minute with ours, a limit, and what to look at.
. "$(dirname "$0")/lib.sh"
need_kind
exists || die "there is no cluster $CLUSTER: hack/kind/up.sh makes it"
shop() { k --namespace shop "$@"; }
mode() { shop patch balancepolicy cart --type merge --patch "{\"spec\": {\"mode\": \"$1\"}}" >/dev/null; }
# The tenant's load says what became of it; which replica counts is in its Lease.
tenant() {
  sleep 20
  shop logs deployment/envoy-edge --container tenant --tail 3
  leader=$(k --namespace evenkeel-system get lease evenkeel --output 'jsonpath={.spec.holderIdentity}')
  k --namespace evenkeel-system exec "${leader%%_*}" -- controlplane limits
}
look() {
  controlplane explain shop/cart:80
  say "the load through one of the Envoys"
  shop logs deployment/envoy-edge --container load --tail 3
}

say "six servers between 1x and 3x speed, two Envoys"
k apply --server-side --force-conflicts --kustomize hack/kind/demo
shop rollout status statefulset/cart --timeout 3m
shop rollout status deployment/envoy-edge --timeout 3m
shop wait --for condition=Programmed --timeout 1m gateway/edge
shop get gateway,httproute,balancepolicy,limitpolicy

say "a minute with equal weights"
mode Equal; sleep 60; look

say "a minute with weights by capacity"
mode Enforce; sleep 60; look

say "tenant acme sends three times what it may: counted, and let through"
tenant

say "the same with the limit enforced"
shop patch limitpolicy tenants --type json --patch '[{"op": "replace", "path": "/spec/limits/0/mode", "value": "Enforce"}]' >/dev/null
tenant

cat >&2 <<EOF

The load goes on. What to look at:
  kubectl --context kind-$CLUSTER -n shop get gateway,httproute,balancepolicy,limitpolicy   what is in force, and since when
  kubectl --context kind-$CLUSTER -n shop logs -f deploy/envoy-edge -c load        latencies
  kubectl --context kind-$CLUSTER -n evenkeel-system port-forward deploy/evenkeel-controlplane 19000
                                                                               then http://127.0.0.1:19000
  curl -i http://127.0.0.1:8080/                                               a request of your own
What to try:
  kubectl --context kind-$CLUSTER -n shop delete pod cart-5                        the fastest server goes and comes back
  kubectl --context kind-$CLUSTER -n evenkeel-system delete pod -l app.kubernetes.io/component=controlplane
                                                                               no request fails, no weight jumps
EOF
