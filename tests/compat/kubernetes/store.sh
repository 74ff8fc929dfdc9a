# The store of kubernetes.sh: one plain member.

client=$(free_port) peer=$(free_port)
store=() store_flags=(--etcd-servers="http://127.0.0.1:$client")

start_store() {
  "$server" --name=default --data-dir="$dir/data" --log-level=warn --watch-progress-notify-interval=5s \
    --listen-client-urls="http://127.0.0.1:$client" --advertise-client-urls="http://127.0.0.1:$client" \
    --listen-peer-urls="http://127.0.0.1:$peer" --initial-advertise-peer-urls="http://127.0.0.1:$peer" \
    --initial-cluster="default=http://127.0.0.1:$peer" >>"$dir/store.log" 2>&1 &
  store=($!)
  for _ in $(seq 150); do
    "$judges/etcdctl" --endpoints="http://127.0.0.1:$client" --command-timeout=1s get x >/dev/null 2>&1 && return
    kill -0 "${store[0]}" 2>/dev/null || die "the store ended by itself"
    sleep 0.2
  done
  die "the store is not ready"
}

kill_store() {
  kill -KILL "${store[0]}"
  wait "${store[0]}" 2>/dev/null || true
}
