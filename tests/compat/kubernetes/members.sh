# The store of kubernetes-members.sh: three members under TLS, which ask for certificates on both ports.

tls=$dir/tls
declare -a client peer store
for number in 0 1 2; do client[number]=$(free_port) peer[number]=$(free_port); done
endpoints=$(printf 'https://127.0.0.1:%s,' "${client[@]}") endpoints=${endpoints%,}
founders=$(for number in 0 1 2; do printf 'm%d=https://127.0.0.1:%d,' $number "${peer[number]}"; done) founders=${founders%,}
store_flags=(--etcd-servers="$endpoints" --etcd-cafile="$tls/ca.pem" --etcd-certfile="$tls/client.pem" --etcd-keyfile="$tls/client-key.pem")

# start_member NUMBER
start_member() {
  local own="$tls/m$1.pem" key="$tls/m$1-key.pem" serves="https://127.0.0.1:${client[$1]}" hears="https://127.0.0.1:${peer[$1]}"
  "$server" --name="m$1" --data-dir="$dir/m$1" --log-level=warn --watch-progress-notify-interval=5s \
    --listen-client-urls="$serves" --advertise-client-urls="$serves" --listen-peer-urls="$hears" \
    --initial-advertise-peer-urls="$hears" --initial-cluster="$founders" \
    --cert-file="$own" --key-file="$key" --trusted-ca-file="$tls/ca.pem" --client-cert-auth \
    --peer-cert-file="$own" --peer-key-file="$key" --peer-trusted-ca-file="$tls/ca.pem" --peer-client-cert-auth >>"$dir/m$1.log" 2>&1 &
  store[$1]=$!
}

etcdctl() {
  "$judges/etcdctl" --endpoints="$endpoints" --cacert="$tls/ca.pem" --cert="$tls/client.pem" --key="$tls/client-key.pem" \
    --dial-timeout=1s --command-timeout=2s "$@"
}

# start_store returns once all members are healthy.
start_store() {
  local number
  for number in 0 1 2; do start_member $number; done
  all_healthy
}

all_healthy() {
  for _ in $(seq 150); do
    ! etcdctl endpoint health >/dev/null 2>&1 || return 0
    sleep 0.2
  done
  die "the members are not healthy"
}

# leader is the number of the member that leads.
leader() {
  local port number
  for _ in $(seq 100); do
    port=$(etcdctl endpoint status 2>/dev/null | awk -F', ' '/, true,/ { sub(".*:", "", $1); print $1 }' | head -1)
    for number in 0 1 2; do
      if [ "${client[number]}" = "$port" ]; then
        echo $number
        return
      fi
    done
    sleep 0.1
  done
  die "no member leads"
}

# kill_member NUMBER
kill_member() {
  kill -KILL "${store[$1]}"
  wait "${store[$1]}" 2>/dev/null || true
}
