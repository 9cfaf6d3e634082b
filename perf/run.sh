#!/usr/bin/env bash
# The profile of record: this machine, its limits, and Millrace beside them.
set -euo pipefail
usage() {
  cat <<'TEXT'
perf/run.sh [--cluster] [--quick] [--rows LIST] [--out DIR] [--dir DIR] [more]

Builds Millrace and its load generators, measures what this machine can do, runs the workloads of record against
Millrace and against brokers that do nothing, and prints a table. About 15 minutes, or 3 with --quick. No argument is
needed. Results are left in perf/out/<time>/: result.json, result.csv, table.txt, plots (SVG), and profiles/ with a
processor and an allocation profile of every row, and flame graphs where perf is installed.

  --quick          fewer rows, one short round, with counts and profiles taken during it
  --rows LIST      only these, separated by commas; W3* means all that begin so (perf/README.md lists them)
  --systems LIST   only these: null, null+flush, D1, D2; with --cluster null, D2, D2x3
  --out DIR        where the results go
  --dir DIR        directory on the disk to measure (default: $TMPDIR, or /tmp); it needs about 20 GB
  --rounds N       rounds of every row, each in the other direction (default: 3 of the rows
                   that --quick has, 1 of the others)
  --duration D     window of one run (default 3s)
  --soak D         window of the mixed row W9 (30m for the soak of record)
  --loop=false     no rows on an ext4 with a journal in a file (they need root)
  --flames=false   no flame graphs

  --cluster        the rows W7 instead: three brokers on this machine, three replicas, min.insync.replicas=2, and the
                   same loads on one broker beside them. About an hour, or five minutes with --quick
  --backlog N      bytes that a follower catches up (1e9, with --quick 2e8)
  --partitions N   partitions of the row of many partitions (3000, with --quick 300)
  --kills N        faults of each kind (20, with --quick 2)

Every produce run ends by reading back all acknowledged records; the exit code is not 0 if one is missing.
TEXT
}
what=run
case ${1:-} in --compare) what=compare; shift ;; esac
for a in "$@"; do
  case $a in -h | --help) usage; exit 0 ;; esac
done
here=$(cd "$(dirname "$0")" && pwd)
bin=$(mktemp -d "${TMPDIR:-/tmp}/perf-bin.XXXXXX")
suite=
# The suite ends what it has started when it is asked to end; it is asked by its number, and waited for.
# shellcheck disable=SC2317,SC2329 # the trap calls it
finish() {
  if [ -n "$suite" ]; then
    kill "$suite" 2>/dev/null || true
    wait "$suite" 2>/dev/null || true
  fi
  rm -rf "$bin"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
"$here/build.sh" "$bin"
cd "$here/.."
"$bin/suite" "$what" --bin "$bin" "$@" &
suite=$!
code=0
wait "$suite" || code=$?
suite=
exit "$code"
