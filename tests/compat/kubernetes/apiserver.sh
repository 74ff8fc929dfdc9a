# Starting and stopping an apiserver; sourced behind what starts the store (store.sh or members.sh), which sets `store`, the
# processes, and `store_flags`, how the apiserver reaches them. Nothing outlives the script.

secure=$(free_port)
apiserver=''
export KUBECONFIG=$dir/kubeconfig

# In the background "${kubectl[@]}" is the process itself, where the function would be a shell around it.
kubectl=("$judges/kubectl" --server="https://127.0.0.1:$secure" --insecure-skip-tls-verify --token=admin-token --cache-dir="$dir/cache")
kubectl() { "${kubectl[@]}" "$@"; }

credentials() {
  [ -e "$dir/sa.key" ] && return
  openssl genrsa -out "$dir/sa.key" 2048 2>/dev/null
  openssl rsa -in "$dir/sa.key" -pubout -out "$dir/sa.pub" 2>/dev/null
  echo 'admin-token,admin,1,system:masters' >"$dir/tokens.csv"
}

start_apiserver() {
  credentials
  "$judges/kube-apiserver" "${store_flags[@]}" --secure-port="$secure" --bind-address=127.0.0.1 \
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

is_store() { case " ${store[*]} " in *" $1 "*) ;; *) return 1 ;; esac; }

stop_all() {
  local job
  for job in $(jobs -p); do
    is_store "$job" || kill "$job" 2>/dev/null || true
  done
  [ -z "$apiserver" ] || wait "$apiserver" 2>/dev/null || true
  for job in "${store[@]}"; do kill "$job" 2>/dev/null || true; done
  wait 2>/dev/null || true
}

# wait_for_jobs waits for what was started in the background, except the servers and the watch.
wait_for_jobs() {
  local job bad=0
  for job in $(jobs -p); do
    case $job in "$apiserver" | "${watcher:-}") continue ;; esac
    ! is_store "$job" || continue
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

# judge_complaints FILE: FILE is what it complains of on etcd; each run on etcd adds to it.
judge_complaints() {
  local new
  complaints >"$dir/complaints.txt"
  touch "$1"
  if [ "$server" = "$(realpath "$judges/etcd")" ]; then
    sort -u "$1" "$dir/complaints.txt" -o "$1"
  fi
  if new=$(comm -23 "$dir/complaints.txt" <(sort -u "$1")) && [ -n "$new" ]; then
    die "the apiserver complained of what it does not complain of on etcd:"$'\n'"$new"
  fi
  step "passed; $(wc -l <"$dir/complaints.txt") kinds of complaints, none that etcd does not cause"
}
