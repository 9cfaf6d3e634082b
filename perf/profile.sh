#!/usr/bin/env bash
# Where one row's time goes.
set -euo pipefail
usage() {
  cat <<'TEXT'
perf/profile.sh [ROW [SYSTEM [SECONDS]]] [more flags of perf/run.sh]

Runs one row (default W1) on one system (default D2) for a window of SECONDS (default 20), with Go's processor and
allocation profiles, a flame graph and counts of system calls where perf is installed, and prints the functions that
cost most. The profiles are left in perf/out/<time>/profiles/; open one with: go tool pprof -http=: FILE
TEXT
}
case ${1:-} in -h | --help) usage; exit 0 ;; esac
row=W1 system=D2 seconds=20
case ${1:-} in '' | -*) ;; *) row=$1; shift ;; esac
case ${1:-} in '' | -*) ;; *) system=$1; shift ;; esac
case ${1:-} in '' | -*) ;; *) seconds=$1; shift ;; esac
here=$(cd "$(dirname "$0")" && pwd)
out=$here/out/profile-$(date +%Y%m%d-%H%M%S)
"$here/run.sh" --quick --rows "$row" --systems "$system" --duration "${seconds}s" --warmup 3s --slice 50ms --out "$out" --flames=true "$@"
for f in "$out"/profiles/*.cpu.pprof; do
  [ -e "$f" ] || { echo "profile.sh: $system leaves no profile of Go's" >&2; exit 1; }
  printf '\nprocessor, by function and by what it calls (%s)\n' "$f"
  go tool pprof -top -nodecount=25 "$f" 2>/dev/null | tail -n +5
  go tool pprof -top -cum -nodecount=40 "$f" 2>/dev/null | tail -n +6
done
for f in "$out"/profiles/*.allocs.pprof; do
  printf '\nallocations since the start (%s)\n' "$f"
  go tool pprof -sample_index=alloc_objects -top -nodecount=15 "$f" 2>/dev/null | tail -n +5
done
