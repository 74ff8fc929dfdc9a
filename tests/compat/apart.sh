#!/usr/bin/env bash
# Runs a command with a network of its own: the suites have fixed ports, so that two of them cannot run side by side otherwise.
# One of their tests asks for an address of the machine besides loopback. Needs the right to make namespaces.
#
#   apart.sh COMMAND [ARGUMENT...]
set -euo pipefail
case ${1:-} in
  '' | -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac
exec unshare --net -- sh -c '
  ip link set lo up
  ip address add 192.0.2.1/32 dev lo
  ip route add default dev lo src 192.0.2.1
  exec "$@"' sh "$@"
