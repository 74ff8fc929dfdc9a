#!/usr/bin/env bash
# An operator's life with a cluster of three members under TLS, from the certificates to the restored backup:
#
#   1  an authority and certificates for members and clients, three members that ask for them on both ports
#   2  one member killed, two killed, all back
#   3  a member whose disk is lost, replaced by one with an empty folder
#   4  a plain member that holds data, moved to TLS by `member update` and grown to three
#   5  the disaster: a snapshot saved, all members killed, all data deleted, three members restored and started by
#      their names and URLs alone
#
#   operator.sh SERVER     SERVER is kevel or etcd. Ports from $PORT (25100) on.
#
# cfssl makes the certificates where it is installed, otherwise openssl. About a minute.
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
server=$(realpath "${1:?which server binary?}")
judges=$("$here/build.sh" etcd)
tool=$server
[ "$(basename "$server")" != etcd ] || tool=$judges/etcdutl
port=${PORT:-25100}
dir=$(mktemp -d -t operator-XXXXXX)
tls=$dir/tls
declare -A pid=()

stop_all() {
  local each
  for each in "${pid[@]}"; do kill -KILL "$each" 2>/dev/null || true; done
  wait 2>/dev/null
}
trap stop_all EXIT
. "$here/scripts/steps.sh"
. "$here/tls/certificates.sh"
refused() { ! "$@" >>"$dir/refused" 2>&1 || die "taken, but has to be refused: $*"; }

# within SECONDS COMMAND: until the command succeeds.
within() {
  local limit=$((SECONDS + $1))
  until "${@:2}" >"$dir/within" 2>&1; do
    [ $SECONDS -lt $limit ] || die "not within $1 s: ${*:2}: $(tail -3 "$dir/within")"
    sleep 0.2
  done
}

# Members: mN listens to clients at $(client N) and to members at $(peer N).

scheme=https
client() { echo "$scheme://127.0.0.1:$((port + 10 * $1))"; }
peer() { echo "$scheme://127.0.0.1:$((port + 10 * $1 + 1))"; }
clients() {
  local each all=()
  for each in "$@"; do all+=("$(client "$each")"); done
  (IFS=, && echo "${all[*]}")
}
cluster() {
  local each all=()
  for each in "$@"; do all+=("m$each=$(peer "$each")"); done
  (IFS=, && echo "${all[*]}")
}

# start N FLAG...: the member N with its URLs, and its certificates where URLs are https.
start() {
  local number=$1 flags=("${@:2}")
  if [ "$scheme" = https ]; then
    flags+=(--cert-file "$tls/m$number.pem" --key-file "$tls/m$number-key.pem" --trusted-ca-file "$tls/ca.pem" --client-cert-auth
      --peer-cert-file "$tls/m$number.pem" --peer-key-file "$tls/m$number-key.pem" --peer-trusted-ca-file "$tls/ca.pem"
      --peer-client-cert-auth)
  fi
  "$server" --name "m$number" --data-dir "$dir/m$number" --listen-client-urls "$(client "$number")" \
    --advertise-client-urls "$(client "$number")" --listen-peer-urls "$(peer "$number")" "${flags[@]}" >>"$dir/m$number.log" 2>&1 &
  pid[$number]=$!
}
found() {
  local number=$1 members=$2
  start "$number" --initial-advertise-peer-urls "$(peer "$number")" --initial-cluster "$members" "${@:3}"
}
kill_member() {
  kill "-$2" "${pid[$1]}"
  wait "${pid[$1]}" 2>/dev/null || true
  unset "pid[$1]"
}

# ctl NUMBERS ARGUMENT...: etcdctl with the client's certificate, at these members ("1 2 3").
ctl() {
  local flags=(--dial-timeout 2s --command-timeout 3s) numbers
  read -ra numbers <<<"$1"
  [ "$scheme" != https ] || flags+=(--cacert "$tls/ca.pem" --cert "$tls/client.pem" --key "$tls/client-key.pem")
  "$judges/etcdctl" --endpoints "$(clients "${numbers[@]}")" "${flags[@]}" "${@:2}"
}
healthy() { within 30 ctl "$1" endpoint health --cluster; }
id_of() { ctl "$1" member list | awk -F', ' -v name="m$2" '$3 == name { print $1 }'; }
put() { ctl "$1" put "$2" "$3" >/dev/null || die "put $2 through $1"; }
expect_value() { expect "$2 through m$1" "$3" "$(ctl "$1" get --print-value-only "${@:4}" "$2")"; }
same_hash() {
  local distinct
  distinct=$(ctl "$1" endpoint hashkv -w json | grep -o '"hash":[0-9]*' | sort -u | wc -l)
  [ "$distinct" = 1 ]
}

founding() {
  for number in 1 2 3; do found $number "$(cluster 1 2 3)" --initial-cluster-token operator --initial-cluster-state new; done
  healthy "1 2 3"
  for number in 1 2 3; do
    put $number "/from/m$number" "value $number"
    expect_value $number "/from/m$number" "value $number"
  done
  expect "members in the table" 3 "$(ctl "1" member list -w table | grep -c started)"
  expect "rows of status" 3 "$(ctl "1" endpoint status --cluster -w table | grep -c "https://127.0.0.1")"
  local plain=("$judges/etcdctl" --endpoints "$(client 1)" --dial-timeout 1s --command-timeout 1s)
  refused "${plain[@]}" get /from/m1
  refused "${plain[@]}" --cacert "$tls/ca.pem" get /from/m1
  step "three members serve who has a certificate, and nobody else"
}

losing_and_recovering() {
  kill_member 3 KILL
  within 10 ctl "1 2" put /after/one-killed yes
  expect_value 2 /after/one-killed yes
  kill_member 2 KILL
  refused ctl 1 put /after/two-killed no
  expect_value 1 /after/one-killed yes --consistency=s
  start 2
  start 3
  healthy "1 2 3"
  put 3 /after/recovery yes
  within 10 same_hash "1 2 3"
  step "one of three killed: served; two killed: refused; all back: one store"
}

replacing_a_disk() {
  kill_member 2 KILL
  rm -r "$dir/m2"
  within 10 ctl 1 member remove "$(id_of 1 2)"
  within 10 ctl 1 member add m2 --peer-urls "$(peer 2)"
  found 2 "$(cluster 1 2 3)" --initial-cluster-state existing
  healthy "1 2 3"
  within 10 same_hash "1 2 3"
  expect_value 2 /after/recovery yes
  step "a member with an empty disk took the place of a lost one"
}

plain_to_tls() {
  port=$((port + 100)) scheme=http
  rm -r "$dir"/m[123]
  found 1 "$(cluster 1)"
  healthy 1
  put 1 /plain before
  local id secure
  id=$(id_of 1 1)
  secure=$(scheme=https && peer 1)
  ctl 1 member update "$id" --peer-urls "$secure" >/dev/null
  kill_member 1 TERM
  scheme=https
  start 1
  healthy 1
  expect_value 1 /plain before
  local members
  for number in 2 3; do
    members=$(seq -s ' ' 1 $number)
    within 10 ctl 1 member add m$number --peer-urls "$(peer $number)"
    # shellcheck disable=SC2086
    found $number "$(cluster $members)" --initial-cluster-state existing
    healthy "$members"
  done
  expect_value 3 /plain before
  within 10 same_hash "1 2 3"
  step "a plain member moved to TLS, and has become three"
}

disaster() {
  for number in 1 2 3; do put $number "/kept/$number" "before the disaster"; done
  ctl 1 snapshot save "$dir/saved.db" >/dev/null 2>&1 || die "the snapshot was not saved"
  put 1 /kept/4 "behind the snapshot"
  for number in 1 2 3; do kill_member $number KILL; done
  rm -r "$dir"/m[123]
  for number in 1 2 3; do
    "$tool" snapshot restore "$dir/saved.db" --name m$number --data-dir "$dir/m$number" --initial-cluster "$(cluster 1 2 3)" \
      --initial-cluster-token restored --initial-advertise-peer-urls "$(peer $number)" >"$dir/restore$number" 2>&1 ||
      die "restore of m$number: $(tail -3 "$dir/restore$number")"
  done
  for number in 1 2 3; do start $number; done
  healthy "1 2 3"
  for number in 1 2 3; do expect_value $number "/kept/$number" "before the disaster"; done
  expect "what was written behind the snapshot" "" "$(ctl 1 get --print-value-only /kept/4)"
  put 2 /kept/4 again
  within 10 same_hash "1 2 3"
  step "all data deleted, restored from the snapshot, and one store again"
}

maker=$(certificates "$tls" m1 m2 m3 client)
step "certificates made by $maker"
founding
losing_and_recovering
replacing_a_disk
for number in 1 2 3; do kill_member $number TERM; done
plain_to_tls
disaster
for number in 1 2 3; do kill_member $number TERM; done
rm -r "$dir"
echo "ok"
