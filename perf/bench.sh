#!/usr/bin/env bash
# Go micro-benchmarks of this tree against the last tag.
set -euo pipefail
usage() {
  cat <<'TEXT'
perf/bench.sh [--base COMMIT] [--count N] [--time T] [--bench REGEXP] [PACKAGES...]

Runs the Go benchmarks of this tree and of COMMIT (default: the last tag, or the first commit if there is none), in
turn and N times each (default 6, 100ms), and prints the comparison by benchstat. COMMIT is checked out beside the
tree, into a temporary directory. PACKAGES default to ./engine/... ./netpoll/... ./broker/... ./raft.
For the replicated metadata alone: perf/bench.sh --bench 'Commit|AlterPartition|Snapshot' ./raft
TEXT
}
base='' count=6 time=100ms pattern=.
while [ $# -gt 0 ]; do
  case $1 in
  -h | --help) usage; exit 0 ;;
  --base) base=$2; shift 2 ;;
  --count) count=$2; shift 2 ;;
  --time) time=$2; shift 2 ;;
  --bench) pattern=$2; shift 2 ;;
  -*) usage >&2; exit 2 ;;
  *) break ;;
  esac
done
[ $# -gt 0 ] || set -- ./engine/... ./netpoll/... ./broker/... ./raft
cd "$(dirname "$0")/.."
tree=$PWD
if [ -z "$base" ]; then
  base=$(git describe --tags --abbrev=0 2>/dev/null) || base=$(git rev-list --max-parents=0 HEAD | tail -1)
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/perf-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir "$work/base"
git archive "$base" | tar -x -C "$work/base"
echo "this tree against $base ($(git rev-parse --short "$base"))"
run() { # DIRECTORY FILE PACKAGES: a package that is not there or has no benchmark is no failure
  (cd "$1" && shift 2 && go test -ldflags=-checklinkname=0 -run '^$' -bench "$pattern" -benchmem -benchtime "$time" "$@") >>"$2" 2>"$work/err" || {
    echo "in $1: $(tail -3 "$work/err")" >&2
  }
}
for i in $(seq "$count"); do
  echo "round $i of $count" >&2
  run "$work/base" "$work/base.txt" "$@"
  run "$tree" "$work/tree.txt" "$@"
done
grep -q '^Benchmark' "$work/tree.txt" || { echo "bench.sh: no benchmark ran" >&2; exit 1; }
go tool -modfile=tools/dev/tools.mod benchstat "base=$work/base.txt" "tree=$work/tree.txt"
