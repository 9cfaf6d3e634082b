#!/usr/bin/env bash
# Three nodes of a cluster on this machine: cluster.sh BINARY [DIR] [FIRST-PORT] [-- flags for every node...]
# DIR holds data and logs (default ./data/cluster; "temp": a directory that is removed at the end). Kafka clients are on
# FIRST-PORT (9092) and the two after it, the cluster ports 100 above, the admin addresses 552 above: 9644 to 9646.
# Everything listens on the loopback address. Ctrl-C ends the nodes, in order; started again they go on with their data.
set -euo pipefail
set -m # every node in a process group of its own: Ctrl-C reaches this script alone, which ends them once

bin=$1; shift
dir=./data/cluster port=9092
if [[ $# -gt 0 && $1 != -- ]]; then dir=$1; shift; fi
if [[ $# -gt 0 && $1 != -- ]]; then port=$1; shift; fi
if [[ $# -gt 0 ]]; then shift; fi # the --
temp=
if [[ $dir == temp ]]; then temp=$(mktemp -d) dir=$temp; fi
mkdir -p "$dir"

declare -A pids commands
kafka() { echo $((port + $1 - 1)); }
raft() { echo $((port + 99 + $1)); }
admin() { echo $((port + 551 + $1)); }

start() { # N and the flags that every node has
  local n=$1 peers="" p; shift
  for p in 1 2 3; do
    if [[ $p != "$n" ]]; then peers+="${peers:+,}$p@localhost:$(raft "$p")"; fi
  done
  # --bootstrap matters to an empty directory alone.
  local command=("$bin" --node-id "$n" --kafka-port "$(kafka "$n")" --advertised-addr localhost
    --admin-addr "127.0.0.1:$(admin "$n")" --data-dir "$dir/node-$n"
    raft-cluster --raft-addr "127.0.0.1:$(raft "$n")" --peers "$peers" --bootstrap "$@")
  "${command[@]}" </dev/null >>"$dir/node-$n.log" 2>&1 &
  pids[$n]=$!
  commands[$n]="${command[*]@Q}"
}

finish() {
  trap - EXIT INT TERM
  echo "ending the nodes"
  local pid
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [[ -n $temp ]]; then rm -rf "$temp"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

ready() { # whether /readyz at this port says so
  local line
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return
  printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
  read -r line <&3 && [[ $line == *" 200 "* ]]
}

for n in 1 2 3; do start "$n" "$@"; done
for n in 1 2 3; do
  until (ready "$(admin "$n")") 2>/dev/null; do
    if ! kill -0 "${pids[$n]}" 2>/dev/null; then
      echo "node $n did not start:"; tail -n 5 "$dir/node-$n.log"; exit 1
    fi
    sleep 0.1
  done
  echo "node $n is ready: Kafka on localhost:$(kafka "$n"), admin on 127.0.0.1:$(admin "$n"), pid ${pids[$n]}, log $dir/node-$n.log"
done

b=""; [[ $port == 9092 ]] || b=" -b localhost:$port"
a=""; [[ $port == 9092 ]] || a=" --admin-addr 127.0.0.1:$(admin 1)"
cat <<EOF

In another terminal:
  $bin topic create orders --partitions 6 --replication-factor 3$b
  $bin produce orders 'first record' 'second record'$b
  $bin consume orders --from-beginning --exit-at-end$b
  $bin topic describe orders$b
  $bin bench --topic load --partitions 6 --replication-factor 3 --duration 30 --verify$b
  kill -9 ${pids[2]}              # node 2: nothing that was acknowledged is lost
  $bin cluster status$a

Ctrl-C here ends all of them.
EOF

# Nodes may die: that is what they are there for.
while [[ ${#pids[@]} -gt 0 ]]; do
  wait -n "${pids[@]}" 2>/dev/null || true
  for n in "${!pids[@]}"; do
    if ! kill -0 "${pids[$n]}" 2>/dev/null; then
      unset "pids[$n]"
      echo "node $n has ended (log: $dir/node-$n.log); to start it again: ${commands[$n]}"
    fi
  done
done
