#!/usr/bin/env bash
# Runs tests of etcd's own black-box suites, tests/common and tests/e2e, against a server binary, each in a process of its own:
# after one failure the suites' leak check would skip whatever follows in the same process, and a server might be left behind.
#
#   suites.sh SERVER [LIST...]   default list: suites/one-member.txt
#   suites.sh unnamed            names the tests of the suites that README.md does not name
#
# A list has one test (and subtest) a line. A test that was skipped or ran nothing counts as failed. Logs are kept when one fails.
# KEVEL_TEST_SECONDS bounds each test (300). KEVEL_MIXED=1 adds the clusters of the server and etcd 3.7.3 that tests/common has
# for two releases.
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = unnamed ]; then
  judges=$("$here/build.sh" suites)
  cd "$judges/etcd-tests/common"
  all=$("$judges/common.test" -test.list . && cd ../e2e && "$judges/e2e.test" -test.list .)
  missing=$(for test in $all; do grep -qw -- "$test" "$here/README.md" || echo "$test"; done)
  [ -z "$missing" ] || { echo "$missing"; exit 1; }
  echo "README.md names all $(wc -w <<<"$all") tests"
  exit
fi

server=$(realpath "${1:?which server binary?}")
shift
[ $# -gt 0 ] || set -- "$here/suites/one-member.txt"
mapfile -t lists < <(realpath "$@")
each=${KEVEL_TEST_SECONDS:-300}
judges=$("$here/build.sh" etcd suites)

logs=$(mktemp -d -t suites-XXXXXX)
mkdir "$logs/bin"
# Where a test puts one of etcd's proxies before the members, the proxy is etcd's.
cat >"$logs/bin/etcd" <<END
#!/bin/sh
case "\$1" in gateway | grpc-proxy) exec "$judges/etcd" "\$@" ;; esac
exec "$server" "\$@"
END
# Where a test restores a snapshot, the server's own tool does it, if there is one: the directory is the server's.
cat >"$logs/bin/etcdutl" <<END
#!/bin/sh
case "\$1 \$2" in "snapshot restore") "$server" snapshot --help >/dev/null 2>&1 && exec "$server" "\$@" ;; esac
exec "$judges/etcdutl" "\$@"
END
chmod +x "$logs/bin/etcd" "$logs/bin/etcdutl"
ln -s "$judges/etcdctl" "$logs/bin/"
[ -z "${KEVEL_MIXED:-}" ] || ln -s "$judges/etcd" "$logs/bin/etcd-last-release"

passed=0 failed=0
while read -r binary test; do
  case $binary in '' | \#*) continue ;; esac
  folder=${binary%.test} pattern="^${test//\//\$/^}\$"
  cd "$judges/etcd-tests/${folder%-one}"
  # What a server without --data-dir has left.
  rm -rf ./*.etcd ./*.kevel
  log=$logs/${test//\//.}.log
  began=$SECONDS
  if timeout -k 10 "$each" "$judges/$binary" -test.v -test.run "$pattern" -bin-dir "$logs/bin" >"$log" 2>&1 </dev/null &&
    grep -q -- "--- PASS: .*/\|--- PASS: [^/]* (" "$log" && ! grep -q -- "--- SKIP: $test " "$log"; then
    passed=$((passed + 1))
    echo "passed $test ($((SECONDS - began)) s)"
  else
    failed=$((failed + 1))
    echo "FAILED $test ($((SECONDS - began)) s), see $log"
    grep -a -m5 -- 'Error:\|Error Trace\|panic:\|--- FAIL\|--- SKIP' "$log" || true
  fi
done < <(cat "${lists[@]}")
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ] && rm -rf "$logs"
