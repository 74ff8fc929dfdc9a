#!/usr/bin/env bash
# Runs etcd's robustness suite on one member of a server binary: random traffic, faults (kill, and what needs no
# failpoints), then proofs that the history is linearizable and the watches complete. The suite reads the member's log files
# to know what was really written.
#
#   robustness.sh SERVER [RUNS]     RUNS per traffic profile, default 4
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
server=$(realpath "${1:?which server binary?}")
runs=${2:-4}
judges=$("$here/build.sh" etcd suites)

logs=$(mktemp -d -t robustness-XXXXXX)
ln -s "$server" "$logs/etcd"
ln -s "$judges/etcdctl" "$judges/etcdutl" "$logs/"
export RESULTS_DIR=$logs/results
cd "$judges/etcd-tests/robustness"

passed=0 failed=0
for traffic in EtcdHighTraffic EtcdTrafficDeleteLeases KubernetesHighTraffic KubernetesLowTraffic; do
  for run in $(seq "$runs"); do
    log=$logs/$traffic.$run.log
    if timeout 300 "$judges/robustness.test" -test.v -test.timeout 5m -bin-dir "$logs" \
      -test.run "^TestRobustnessExploratory\$/^$traffic\$/^ClusterOfSize1\$" >"$log" 2>&1 &&
      grep -q -- "--- PASS: TestRobustnessExploratory/$traffic/ClusterOfSize1" "$log"; then
      passed=$((passed + 1))
      rm -rf "$RESULTS_DIR"
    else
      failed=$((failed + 1))
      echo "FAILED $traffic, run $run, see $log and $RESULTS_DIR"
      grep -a -m8 -- 'panic:\|--- FAIL\|--- SKIP\|Error:\|not linearizable\|Broke' "$log" || true
      mv "$RESULTS_DIR" "$logs/results.$traffic.$run" 2>/dev/null || true
    fi
  done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ] && rm -rf "$logs"
