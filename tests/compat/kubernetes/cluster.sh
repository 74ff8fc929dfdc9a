# Starting and stopping the store and the apiserver; sourced by kubernetes.sh. Nothing outlives the script.

free_port() { # below the ports that outgoing connections take
  local port
  while port=$((12000 + RANDOM % 18000)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

client=$(free_port) peer=$(free_port) secure=$(free_port)
store='' apiserver=''
export KUBECONFIG=$dir/kubeconfig

# In the background "${kubectl[@]}" is the process itself, where the function would be a shell around it.
kubectl=("$judges/kubectl" --server="https://127.0.0.1:$secure" --insecure-skip-tls-verify --token=admin-token --cache-dir="$dir/cache")
kubectl() { "${kubectl[@]}" "$@"; }

start_store() {
  "$server" --name=default --data-dir="$dir/data" --log-level=warn --watch-progress-notify-interval=5s \
    --listen-client-urls="http://127.0.0.1:$client" --advertise-client-urls="http://127.0.0.1:$client" \
    --listen-peer-urls="http://127.0.0.1:$peer" --initial-advertise-peer-urls="http://127.0.0.1:$peer" \
    --initial-cluster="default=http://127.0.0.1:$peer" >>"$dir/store.log" 2>&1 &
  store=$!
  for _ in $(seq 150); do
    "$judges/etcdctl" --endpoints="http://127.0.0.1:$client" --command-timeout=1s get x >/dev/null 2>&1 && return
    kill -0 "$store" 2>/dev/null || die "the store ended by itself"
    sleep 0.2
  done
  die "the store is not ready"
}

kill_store() {
  kill -9 "$store"
  wait "$store" 2>/dev/null || true
}

credentials() {
  [ -e "$dir/sa.key" ] && return
  openssl genrsa -out "$dir/sa.key" 2048 2>/dev/null
  openssl rsa -in "$dir/sa.key" -pubout -out "$dir/sa.pub" 2>/dev/null
  echo 'admin-token,admin,1,system:masters' >"$dir/tokens.csv"
}

start_apiserver() {
  credentials
  "$judges/kube-apiserver" --etcd-servers="http://127.0.0.1:$client" --secure-port="$secure" --bind-address=127.0.0.1 \
    --advertise-address=127.0.0.1 --endpoint-reconciler-type=none --cert-dir="$dir/certs" \
    --service-account-key-file="$dir/sa.pub" --service-account-signing-key-file="$dir/sa.key" \
    --service-account-issuer=https://kubernetes.default.svc --token-auth-file="$dir/tokens.csv" \
    --authorization-mode=RBAC --service-cluster-ip-range=10.0.0.0/16 --disable-admission-plugins=ServiceAccount \
    --event-ttl=20s >>"$dir/apiserver.log" 2>&1 &
  apiserver=$!
  ready || die "the apiserver is not ready"
}

ready() {
  for _ in $(seq 120); do
    [ "$(kubectl get --raw /readyz 2>/dev/null)" = ok ] && return
    sleep 0.5
  done
  return 1
}

stop_apiserver() {
  kill "$apiserver" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$apiserver" 2>/dev/null || break
    sleep 0.2
  done
  kill -9 "$apiserver" 2>/dev/null || true
  wait "$apiserver" 2>/dev/null || true
}

stop_all() {
  local job
  for job in $(jobs -p); do
    [ "$job" = "$store" ] || kill "$job" 2>/dev/null || true
  done
  [ -z "$apiserver" ] || wait "$apiserver" 2>/dev/null || true
  [ -z "$store" ] || kill "$store" 2>/dev/null || true
  wait 2>/dev/null || true
}

# wait_for_jobs waits for what was started in the background, except the servers and the watch.
wait_for_jobs() {
  local job bad=0
  for job in $(jobs -p); do
    case $job in "$store" | "$apiserver" | "${watcher:-}") continue ;; esac
    wait "$job" || bad=1
  done
  [ "$bad" = 0 ] || [ -z "${1:-}" ] || die "$1"
  return "$bad"
}

# complaints are the apiserver's errors and warnings by place in its source and first words, without what varies.
complaints() {
  sed -nE 's/^([EW])[0-9]{4} [0-9:.]+ +[0-9]+ ([a-z_0-9]+\.go):[0-9]+\] "?([^":{0-9]*)"?( err="[^":{0-9]*)?.*/\1 \2 \3\4/p' "$dir/apiserver.log" |
    cut -d' ' -f1-7 | sed 's/ *$//' | sort -u
}
