# What judges written in bash say and how they end; sourced by them behind `dir`, the folder that a failure leaves.

begun=$SECONDS
step() { echo "$((SECONDS - begun)) s: $*"; }
die() {
  echo "FAILED: $*; see $dir" >&2
  exit 1
}
expect() { [ "$2" = "$3" ] || die "$1: expected $2, got $3"; }
