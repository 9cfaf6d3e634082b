#!/usr/bin/env bash
# Builds what the profile runs into a directory: build.sh DIR. Called by the other scripts.
set -euo pipefail
case ${1:-} in
'' | -h | --help) sed -n '2s/^# //p' "$0"; exit 0 ;;
esac
cd "$(dirname "$0")/.."
mkdir -p "$1"
bin=$(cd "$1" && pwd)
# Why this flag: see the Makefile.
flags=(-trimpath -buildvcs=false "-ldflags=-checklinkname=0")
go build "${flags[@]}" -o "$bin/millrace" ./tools/millrace
go build "${flags[@]}" -o "$bin/nullbroker" ./tools/nullbroker
go build "${flags[@]}" -o "$bin/limits" ./perf/limits
go build "${flags[@]}" -o "$bin/suite" ./perf/suite
# The cluster's rows have faults made by a tool of its own, and print the benchmarks of the metadata.
go build "${flags[@]}" -o "$bin/chaos" ./tools/chaos
go test -c "${flags[@]}" -o "$bin/raft.test" ./raft
# librdkafka comes with a module of its own and needs a C compiler: its row is skipped aloud without it.
rm -f "$bin/rdkafka-bench"
if ! (cd tools/compat && CGO_ENABLED=1 go build -buildvcs=false -o "$bin/rdkafka-bench" ./rdkafkabench) >"$bin/rdkafka-bench.log" 2>&1; then
  echo "SKIPPED: rdkafka-bench was not built:" >&2
  tail -3 "$bin/rdkafka-bench.log" >&2
fi
