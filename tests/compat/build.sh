#!/usr/bin/env bash
# Builds the programs that judge Kevel, each from its published Go module, because a server is only compatible when the
# unmodified tools and suites of etcd and Kubernetes say so. What is already built for the same pins is left alone.
#
#   build.sh [etcd] [etcd36] [tools] [suites] [kubernetes]      default: etcd tools
#
#   etcd        etcd, etcdctl, etcdutl
#   etcd36      etcd36: etcd 3.6, for clusters of both releases
#   tools       benchmark, etcd-dump-logs, etcd-dump-db
#   suites      common.test, common-one.test (on one member), e2e.test, robustness.test and the folders they run in
#   kubernetes  kube-apiserver, kubectl (minutes, and 2.3 GB of build cache)
#
# Everything lands in $KEVEL_JUDGES (default: target/judges at the root of the repository).
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit
    ;;
esac

here=$(cd "$(dirname "$0")" && pwd)
judges=${KEVEL_JUDGES:-$here/../../target/judges}
etcd_version=v3.7.3
kubernetes_version=v1.36.3

mkdir -p "$judges"
judges=$(cd "$judges" && pwd)

# fresh NAME FILE...: true when NAME was last built from exactly these pins by this Go.
pins() { { go env GOVERSION; cat "$@"; } | sha256sum | cut -d' ' -f1; }
fresh() { [ "$(cat "$judges/.$1.pins" 2>/dev/null)" = "$(pins "${@:2}")" ]; }
built() { pins "${@:2}" >"$judges/.$1.pins"; }

# build MODULE OUTPUT PACKAGE [FLAG...]: one binary, with the module's own pins.
build() {
  local module=$1 output=$2 package=$3
  echo "building $output" >&2
  (cd "$module" && nice go build -trimpath "${@:4}" -o "$judges/$output" "$package")
}

etcd() {
  local m=$here/judges/etcd
  fresh etcd "$m"/go.* && return
  build "$m" etcd go.etcd.io/etcd/server/v3
  build "$m" etcdctl go.etcd.io/etcd/etcdctl/v3
  build "$m" etcdutl go.etcd.io/etcd/etcdutl/v3
  built etcd "$m"/go.*
}

etcd36() {
  local m=$here/judges/etcd36
  fresh etcd36 "$m"/go.* && return
  build "$m" etcd36 go.etcd.io/etcd/server/v3
  built etcd36 "$m"/go.*
}

tools() {
  local m=$here/judges/tools
  fresh tools "$m"/go.* && return
  build "$m" benchmark go.etcd.io/etcd/v3/tools/benchmark
  build "$m" etcd-dump-logs go.etcd.io/etcd/v3/tools/etcd-dump-logs
  build "$m" etcd-dump-db go.etcd.io/etcd/v3/tools/etcd-dump-db
  built tools "$m"/go.*
}

suite() {
  echo "building $1" >&2
  nice go test -c -tags e2e -o "$judges/$1" "$2"
}

# The suites are a module that only builds inside etcd's repository (eight replaces to sibling folders): a writable copy
# without the replaces builds anywhere. Robustness is told that no failpoints exist; it would skip every test otherwise.
suites() {
  fresh suites "$here/build.sh" && return
  local copy=$judges/etcd-tests source example m
  (cd "$here/judges/etcd" && go mod download "go.etcd.io/etcd/tests/v3@$etcd_version")
  (cd "$here/judges/tools" && go mod download go.etcd.io/etcd/v3)
  example=$(cd "$here/judges/tools" && go list -m -f '{{.Dir}}' go.etcd.io/etcd/v3)/etcd.conf.yml.sample
  source=$(go env GOMODCACHE)/go.etcd.io/etcd/tests/v3@$etcd_version
  rm -rf "$copy" && cp -r "$source" "$copy" && chmod -R u+w "$copy"
  (
    cd "$copy"
    export GOFLAGS=-mod=mod
    for m in $(go mod edit -json | sed -n 's/.*"Path": "\(go.etcd.io\/etcd[^"]*\)".*/\1/p' | sort -u); do
      [ "$m" = go.etcd.io/etcd/tests/v3 ] || go mod edit -dropreplace "$m"
    done
    sed -i 's/WithGoFailEnabled(true)/WithGoFailEnabled(false)/' robustness/scenarios/scenarios.go
    for m in common e2e robustness; do
      suite "$m.test" "./$m"
    done
    # One test reads etcd's example of a configuration file, two folders above its own.
    install -m 644 "$example" "$judges/etcd.conf.yml.sample"
    # Some tests take the framework's default of three members without saying so. This one asks the same of one member.
    sed -i 's/ClusterSize: *3,/ClusterSize: 1,/' framework/config/cluster.go
    suite common-one.test ./common
    sed -i 's/ClusterSize: *1,/ClusterSize: 3,/' framework/config/cluster.go
  )
  built suites "$here/build.sh"
}

kubernetes() {
  local m=$here/judges/kubernetes v=k8s.io/component-base/version
  fresh kubernetes "$m"/go.* && return
  local flags="-X $v.gitVersion=$kubernetes_version -X $v.gitMajor=1 -X $v.gitMinor=36"
  build "$m" kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver -ldflags "$flags"
  build "$m" kubectl k8s.io/kubernetes/cmd/kubectl -ldflags "$flags"
  built kubernetes "$m"/go.*
}

[ $# -gt 0 ] || set -- etcd tools
for what in "$@"; do
  case $what in
    etcd | etcd36 | tools | suites | kubernetes) "$what" ;;
    *) echo "unknown: $what (see the top of $0)" >&2 && exit 2 ;;
  esac
done
echo "$judges"
