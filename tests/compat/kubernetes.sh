#!/usr/bin/env bash
# Runs a real kube-apiserver on one member of a server binary and lives through a small cluster's life: 2 000 objects of many
# kinds created, listed (in pages, and at an old resource version), watched, patched and deleted; events that expire; the
# apiserver restarted; the store killed and restarted under it in the middle of writes. Nothing may be lost, and the
# apiserver may complain of nothing that it does not complain of on etcd.
#
#   kubernetes.sh SERVER
#
# SERVER may be etcd itself: such a run adds what the apiserver complains of to kubernetes/complaints.txt, which is what runs
# on other servers are compared with. About two minutes a run.
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
server=$(realpath "${1:?which server binary?}")
judges=$("$here/build.sh" etcd kubernetes)

dir=$(mktemp -d -t kubernetes-XXXXXX)
. "$here/scripts/steps.sh"
. "$here/kubernetes/ports.sh"
. "$here/kubernetes/store.sh"
. "$here/kubernetes/apiserver.sh"
. "$here/kubernetes/objects.sh"
trap stop_all EXIT

start_store
start_apiserver
step "apiserver ready"
kubectl create namespace load >/dev/null
install_crd

# A watch from before the first object, compared at the end of the busy part with what was done.
"${kubectl[@]}" get --raw '/api/v1/namespaces/load/configmaps?watch=1&allowWatchBookmarks=true' >"$dir/watch.txt" 2>"$dir/watch.err" &
watcher=$!

create configmap 1 500
half=$(resource_version)
create configmap 501 1000 &
create secret 1 400 &
create serviceaccount 1 100 &
create widget 1 200 &
create deployment 1 100 &
create lease 1 100 &
wait_for_jobs "creating objects"
step "1 900 objects created"

for pair in configmaps:1000 secrets:400 serviceaccounts:100 widgets:200 deployments:100 leases:100; do
  kind=${pair%:*} number=${pair#*:}
  for chunk in 0 90; do
    expect "$kind listed in chunks of $chunk" "$number" "$(kubectl -n load get "$kind" --chunk-size=$chunk -o name | wc -l)"
  done
done
expect "configmaps at resource version $half" 500 "$(list_at "$half" 0)"
expect "configmaps at resource version $half, in pages" 500 "$(list_at "$half" 90)"
step "lists agree"

for batch in 'secrets -l parity=odd' 'secrets -l parity=even' 'configmaps -l parity=odd'; do
  kubectl -n load label $batch patched=yes >/dev/null &
done
wait_for_jobs "patching objects"
expect "patched secrets" 400 "$(kubectl -n load get secrets -l patched=yes -o name | wc -l)"
kubectl -n load delete configmaps -l parity=even --wait=false >/dev/null
expect "configmaps left" 500 "$(kubectl -n load get configmaps -o name | wc -l)"
sleep 2
kill "$watcher" 2>/dev/null || true
wait "$watcher" 2>/dev/null || true
expect "watched creations" 1000 "$(watched ADDED)"
expect "watched patches" 500 "$(watched MODIFIED)"
expect "watched deletions" 500 "$(watched DELETED)"
step "patches, deletions and the watch agree"

create event 1 100
expect "events" 100 "$(kubectl -n load get events -o name | wc -l)"
for _ in $(seq 90); do
  left=$(kubectl -n load get events -o name | wc -l)
  [ "$left" = 0 ] && break
  sleep 1
done
expect "events after their time" 0 "$left"
step "events expired"

snapshot >"$dir/before.txt"
stop_apiserver
start_apiserver
snapshot >"$dir/after.txt"
diff "$dir/before.txt" "$dir/after.txt" >"$dir/restart.diff" || die "the apiserver's restart changed objects, see restart.diff"
step "apiserver restarted, $(wc -l <"$dir/after.txt") objects as before"

create configmap 2001 2400 >"$dir/acknowledged.txt" 2>"$dir/interrupted.txt" &
sleep 1
kill_store
start_store
wait_for_jobs || true # what was under way at the kill may fail
ready || die "the apiserver did not come back after the store's kill"
grep -o '^configmap/[^ ]*' "$dir/acknowledged.txt" | sort >"$dir/created.txt"
snapshot >"$dir/killed.txt"
lost=$(comm -23 "$dir/after.txt" "$dir/killed.txt" | wc -l)
expect "objects lost or changed by the kill" 0 "$lost"
kubectl -n load get configmaps -o name | sort >"$dir/names.txt"
expect "acknowledged creations lost by the kill" 0 "$(comm -23 "$dir/created.txt" "$dir/names.txt" | wc -l)"
step "store killed and restarted, $(wc -l <"$dir/created.txt") creations acknowledged around it, nothing lost"

kubectl -n load delete configmaps,secrets,serviceaccounts,deployments,leases,widgets --all --wait=false >/dev/null
expect "objects at the end" 0 "$(kubectl -n load get configmaps,secrets,serviceaccounts,deployments,leases,widgets -o name | wc -l)"
step "all deleted"

stop_all
judge_complaints "$here/kubernetes/complaints.txt"
rm -rf "$dir"
