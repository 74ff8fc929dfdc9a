#!/usr/bin/env bash
# Runs a real kube-apiserver on three members under TLS and kills the leader again and again, while objects are created and
# patched. What was acknowledged has to be there behind each kill, a watch has to have seen it, and the apiserver may complain
# of nothing that it does not complain of on etcd.
#
#   kubernetes-members.sh SERVER [KILLS]     20 kills unless told otherwise: 2 minutes
#
# SERVER may be etcd itself: such a run adds what the apiserver complains of to kubernetes/complaints-members.txt.
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
server=$(realpath "${1:?which server binary?}")
kills=${2:-20}
judges=$("$here/build.sh" etcd kubernetes)
dir=$(mktemp -d -t kubernetes-members-XXXXXX)
. "$here/scripts/steps.sh"
. "$here/kubernetes/ports.sh"
. "$here/tls/certificates.sh"
. "$here/kubernetes/members.sh"
. "$here/kubernetes/apiserver.sh"
. "$here/kubernetes/objects.sh"
trap stop_all EXIT

certificates "$tls" m0 m1 m2 client >/dev/null
start_store
start_apiserver
step "apiserver ready on $endpoints"
kubectl create namespace load >/dev/null
"${kubectl[@]}" get --raw '/api/v1/namespaces/load/configmaps?watch=1&allowWatchBookmarks=true' >"$dir/watch.txt" 2>"$dir/watch.err" &
watcher=$!

EACH=60
: >"$dir/created.txt"
for round in $(seq "$kills"); do
  first=$((2000 + round * EACH))
  create configmap $((first + 1)) $((first + EACH)) >"$dir/acknowledged.txt" 2>>"$dir/interrupted.txt" &
  victim=$(leader)
  kill_member "$victim"
  start_member "$victim"
  wait_for_jobs || true # what was under way at the kill may fail
  ready || die "round $round: the apiserver did not come back"
  all_healthy
  grep -o '^configmap/[^ ]*' "$dir/acknowledged.txt" >"$dir/new.txt" || die "round $round: nothing was created"
  sort "$dir/new.txt" "$dir/created.txt" -o "$dir/created.txt"
  kubectl -n load label "$(tail -1 "$dir/new.txt")" "round=$round" >/dev/null || die "round $round: no patch after the kill"
  kubectl -n load get configmaps -o name | sort >"$dir/names.txt"
  expect "round $round: acknowledged creations that are lost" 0 "$(comm -23 "$dir/created.txt" "$dir/names.txt" | wc -l)"
done
expect "patched objects" "$kills" "$(kubectl -n load get configmaps -l round -o name | wc -l)"
step "$kills leaders killed, $(wc -l <"$dir/created.txt") creations acknowledged, $(wc -l <"$dir/interrupted.txt") lines of errors about others"

sleep 2
kill "$watcher" 2>/dev/null || true
wait "$watcher" 2>/dev/null || true
grep '"type":"ADDED"' "$dir/watch.txt" | grep -o '"name":"configmap-[0-9]*"' | tr -d '"' | sed 's,name:,configmap/,' | sort -u >"$dir/watched.txt"
expect "creations that the watch did not see" 0 "$(comm -23 "$dir/created.txt" "$dir/watched.txt" | wc -l)"
step "the watch has seen all of them"

stop_all
judge_complaints "$here/kubernetes/complaints-members.txt"
rm -rf "$dir"
