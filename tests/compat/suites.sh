#!/usr/bin/env bash
# Runs tests of etcd's own black-box suite, tests/common, against a server binary, each in a process of its own: after one
# failure the suite's leak check would skip whatever follows in the same process, and a server might be left behind.
#
#   suites.sh SERVER [LIST]     default list: suites/one-member.txt
#
# A list has one test (and subtest) a line. A test that was skipped or ran nothing counts as failed. Logs are kept when one fails.
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
server=$(realpath "${1:?which server binary?}")
list=$(realpath "${2:-$here/suites/one-member.txt}")
each=${KEVEL_TEST_SECONDS:-120}
judges=$("$here/build.sh" etcd suites)

logs=$(mktemp -d -t suites-XXXXXX)
ln -s "$server" "$logs/etcd"
ln -s "$judges/etcdctl" "$judges/etcdutl" "$logs/"
cd "$judges/etcd-tests/common"

passed=0 failed=0
while read -r binary test; do
  case $binary in '' | \#*) continue ;; esac
  pattern="^${test//\//\$/^}\$"
  log=$logs/${test//\//.}.log
  if timeout "$each" "$judges/$binary" -test.v -test.run "$pattern" -bin-dir "$logs" >"$log" 2>&1 &&
    grep -q -- "--- PASS: .*/\|--- PASS: [^/]* (" "$log" && ! grep -q -- "--- SKIP: $test " "$log"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED $test, see $log"
    grep -a -m5 -- 'Error:\|Error Trace\|panic:\|--- FAIL\|--- SKIP' "$log" || true
  fi
done <"$list"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ] && rm -rf "$logs"
