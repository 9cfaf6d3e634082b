#!/usr/bin/env bash
# The load of record against a fresh broker on this machine: bench.sh BINARY [bench flags...].
# The data directory is temporary, below MILLRACE_BENCH_DIR (default: here), so that it is on a real disk.
set -euo pipefail
bin=$1; shift
dir=$(mktemp -d "${MILLRACE_BENCH_DIR:-.}/bench-data.XXXXXX")
port=${MILLRACE_BENCH_PORT:-19092}
"$bin" standalone --data-dir "$dir" --kafka-port "$port" --admin-addr 127.0.0.1:0 --log-level warn &
broker=$!
trap 'kill "$broker" 2>/dev/null; wait "$broker" || true; rm -rf "$dir"' EXIT
for _ in $(seq 100); do
  "$bin" topic list -b "127.0.0.1:$port" --timeout 1 >/dev/null 2>&1 && break
  kill -0 "$broker" || { echo "the broker did not start"; exit 1; }
  sleep 0.1
done
"$bin" bench -b "127.0.0.1:$port" --broker-pid "$broker" --duration 30 --concurrency 128 --message-size 256 --verify "$@"
