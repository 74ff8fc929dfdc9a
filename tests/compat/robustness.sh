#!/usr/bin/env bash
# Runs etcd's robustness suite on members of a server binary: random traffic of etcd's and of Kubernetes' kinds, one fault, then
# proofs that the history is linearizable and the watches complete. The suite reads the members' log files to know what was
# really written.
#
#   robustness.sh SERVER [RUNS] [MEMBERS]     RUNS of each profile, default 4; MEMBERS 1 (default) or 3
#
# A profile of one member meets SIGKILL. Those of three draw from SIGKILL, packets that are dropped, delayed or lost for a second,
# a member cut off until it needs a snapshot, and a member replaced by an empty one; their proxies need TLS between members.
# Three more are bugs that etcd once had. Faults that etcd injects into itself are not there in another server.
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
server=$(realpath "${1:?which server binary?}")
runs=${2:-4} members=${3:-1}
judges=$("$here/build.sh" etcd suites)

profiles=()
for traffic in EtcdHighTraffic EtcdTrafficDeleteLeases KubernetesHighTraffic KubernetesLowTraffic; do
  profiles+=("TestRobustnessExploratory/$traffic/ClusterOfSize$members")
done
case $members in
  1) ;;
  3) profiles+=(TestRobustnessRegression/Issue13766 TestRobustnessRegression/Issue15271 TestRobustnessRegression/Issue20221) ;;
  *) echo "the suite has clusters of 1 and of 3 members" >&2 && exit 2 ;;
esac

logs=$(mktemp -d -t robustness-XXXXXX)
ln -s "$server" "$logs/etcd"
ln -s "$judges/etcdctl" "$judges/etcdutl" "$logs/"
export RESULTS_DIR=$logs/results
cd "$judges/etcd-tests/robustness"

# fault PROFILE LOG: what the run met; the suite has one name for a member that is cut off, however long.
fault() {
  local name
  name=$(sed -n "s|^ *--- [A-Z]*: $1/\([A-Za-z]*\) .*|\1|p" "$2" | head -1)
  case $1 in *13766) name=Kill ;; esac
  ! grep -q minEntriesToGuarantee "$2" || name=blackholeUntilSnapshot
  echo "${name:-none}"
}

passed=0 failed=0
declare -A met
for run in $(seq "$runs"); do
  for profile in "${profiles[@]}"; do
    log=$logs/${profile//\//.}.$run.log
    if timeout -k 10 600 "$judges/robustness.test" -test.v -test.timeout 10m -bin-dir "$logs" \
      -test.run "^${profile//\//\$/^}\$" >"$log" 2>&1 </dev/null && grep -q -- "--- PASS: $profile" "$log"; then
      passed=$((passed + 1))
      fault=$(fault "$profile" "$log")
      met[$fault]=$((${met[$fault]:-0} + 1))
      rm -rf "$RESULTS_DIR" "$log"
    else
      failed=$((failed + 1))
      echo "FAILED $profile, run $run, $(fault "$profile" "$log"), see $log and $logs/results.${profile//\//.}.$run"
      grep -a -m8 -- 'panic:\|--- FAIL\|--- SKIP\|Error:\|not linearizable\|Broke' "$log" || true
      mv "$RESULTS_DIR" "$logs/results.${profile//\//.}.$run" 2>/dev/null || true
    fi
  done
done
for fault in "${!met[@]}"; do echo "  $fault ${met[$fault]}"; done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ] && rm -rf "$logs"
