# The objects of the run; sourced by kubernetes.sh.

install_crd() {
  kubectl create -f - >/dev/null <<'CRD'
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.compat.test}
spec:
  group: compat.test
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
CRD
  kubectl wait --for=condition=Established --timeout=30s crd/widgets.compat.test >/dev/null
  for _ in $(seq 50); do
    kubectl -n load get widgets >/dev/null 2>&1 && return
    sleep 0.2
  done
  die "the custom resource is not served"
}

# manifest KIND NUMBER: one object.
manifest() {
  local parity=even
  [ $(($2 % 2)) = 0 ] || parity=odd
  local meta="metadata: {name: $1-$2, namespace: load, labels: {parity: $parity}}"
  case $1 in
    configmap) printf 'apiVersion: v1\nkind: ConfigMap\n%s\ndata: {text: "%0200d"}\n' "$meta" "$2" ;;
    secret) printf 'apiVersion: v1\nkind: Secret\n%s\nstringData: {text: "%0100d"}\n' "$meta" "$2" ;;
    serviceaccount) printf 'apiVersion: v1\nkind: ServiceAccount\n%s\n' "$meta" ;;
    widget) printf 'apiVersion: compat.test/v1\nkind: Widget\n%s\nspec: {size: %d}\n' "$meta" "$2" ;;
    lease) printf 'apiVersion: coordination.k8s.io/v1\nkind: Lease\n%s\nspec: {holderIdentity: "%d"}\n' "$meta" "$2" ;;
    event) printf 'apiVersion: v1\nkind: Event\n%s\ninvolvedObject: {kind: ConfigMap, namespace: load, name: configmap-%d}\nreason: Tested\nmessage: "%d"\n' "$meta" "$2" "$2" ;;
    deployment)
      printf 'apiVersion: apps/v1\nkind: Deployment\n%s\nspec:\n  replicas: %d\n  selector: {matchLabels: {app: a}}\n  template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: none}]}}\n' "$meta" "$2"
      ;;
  esac
}

# create KIND FROM TO: that many objects through one kubectl.
create() {
  local i
  for i in $(seq "$2" "$3"); do
    echo '---'
    manifest "$1" "$i"
  done >"$dir/$1-$2.yaml"
  if [ "$2" -gt 2000 ]; then
    kubectl create -f "$dir/$1-$2.yaml"
  else
    kubectl create -f "$dir/$1-$2.yaml" >/dev/null
  fi
}

resource_version() {
  kubectl get --raw '/api/v1/namespaces/load/configmaps?limit=1' | grep -o '"resourceVersion":"[0-9]*"' | head -1 | tr -dc 0-9
}

# list_at VERSION PAGE: how many configmaps there were at that resource version, read in pages (0: at once).
list_at() {
  local path="/api/v1/namespaces/load/configmaps?limit=$2" page next total=0 at="&resourceVersion=$1&resourceVersionMatch=Exact"
  while page=$(kubectl get --raw "$path$at"); do
    total=$((total + $(grep -o '"uid":"' <<<"$page" | wc -l)))
    next=$(sed -n 's/.*"continue":"\([^"]*\)".*/\1/p' <<<"$page" | head -1)
    [ -n "$next" ] || break
    path="/api/v1/namespaces/load/configmaps?limit=$2&continue=$next" at=
  done
  echo "$total"
}

# snapshot: every object with its identity and version, straight from the store.
snapshot() {
  kubectl -n load get configmaps,secrets,serviceaccounts,deployments,leases,widgets \
    -o jsonpath='{range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {.metadata.resourceVersion}{"\n"}{end}' | sort
}

# watched TYPE: how many events of that type the watch has sent.
watched() { grep -c "^{\"type\":\"$1\"" "$dir/watch.txt" || true; }
