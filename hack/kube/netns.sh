#!/usr/bin/env bash
# netns.sh COMMAND [ARGUMENT...]   runs a command in a network namespace of its own, gone when the command ends.
# A test that wants an API server, an Envoy and backends to meet needs addresses that can be listened on and that an
# API server accepts in an EndpointSlice, which loopback ones are not. In the namespace these are local, every one of them:
#   10.250.0.0/16, fd00:250::/64   for Pods
#   172.30.0.0/24                  for Gateways
# There is no other network in it: whatever else is dialled is unreachable at once, and nobody outside is disturbed.
# Needs unshare and ip; root, or a kernel that lets others have user namespaces.
set -euo pipefail
if [ $# -eq 0 ]; then sed -n '2,8s/^# //p' "$0" >&2; exit 2; fi
as=(); [ "$(id -u)" = 0 ] || as=(--user --map-root-user)
exec unshare --net "${as[@]}" -- bash -euo pipefail -c '
  ip link set lo up
  ip route add local 10.250.0.0/16 dev lo
  ip route add local 172.30.0.0/24 dev lo
  if [ -e /proc/net/if_inet6 ]; then ip -6 route add local fd00:250::/64 dev lo; fi
  exec "$@"' netns "$@"
