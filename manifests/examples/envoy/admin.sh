#!/bin/bash
# admin.sh METHOD PATH   asks Envoy's admin port; fails unless the answer is 200. The port is on loopback,
# since whoever reaches it can stop the Envoy: a probe of the kubelet cannot, and the image has no curl.
exec 3<>/dev/tcp/127.0.0.1/9901 || exit 1
printf '%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
read -r _ status _ <&3
[ "$status" = 200 ]
