#!/usr/bin/env bash
# Millrace beside Apache Kafka, on this machine, under the same load.
set -euo pipefail
usage() {
  cat <<'TEXT'
perf/compare.sh [--cluster] KAFKA_HOME [--rows LIST] [--quick] [--rounds N] [--out DIR] [--dir DIR]

Runs the rows of record against Millrace (D2: it flushes before it acknowledges) and against Apache Kafka, as it comes
(K1: it flushes nothing) and with log.flush.interval.messages=1 (K2: it flushes before it acknowledges), in turn, with
the same load generator, and prints the ratios. KAFKA_HOME has Kafka's jars in libs/, as its download has; a JDK is
needed. The other flags are those of perf/run.sh.

With --cluster three brokers each: the rows W7 against Millrace (D2x3) and Apache Kafka as it comes (K1x3).
TEXT
}
cluster=()
case ${1:-} in
'' | -h | --help) usage; [ -n "${1:-}" ]; exit ;;
--cluster) cluster=(--cluster); shift ;;
esac
case ${1:-} in '' | -*) usage >&2; exit 2 ;; esac
kafka=$(cd "$1" && pwd)
shift
ls "$kafka"/libs/kafka-clients-*.jar >/dev/null 2>&1 || { echo "compare.sh: no Kafka in $kafka/libs" >&2; exit 2; }
command -v java >/dev/null || { echo "compare.sh: java is not installed" >&2; exit 2; }
exec "$(dirname "$0")/run.sh" --compare --kafka "$kafka" "${cluster[@]}" "$@"
