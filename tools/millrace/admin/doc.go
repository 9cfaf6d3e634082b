// Package admin is the broker's HTTP side: /metrics, /healthz, /readyz, /cluster and /debug/pprof.
//
//	GET /metrics       Prometheus text; counters of the broker and of the Go process
//	GET /healthz       200 while the process should be left alone (also while it recovers), 503 once it has failed
//	GET /readyz        200 when clients are served, 503 with the reason before that and while it shuts down
//	GET /cluster       the state of the cluster in JSON (broker.ClusterStatus); 404 on a broker that runs alone
//	GET /debug/pprof/  Go's profiles
//
// These change the cluster. They take small JSON bodies and want a header (HeaderGuard); they answer 204, or 200 with
// JSON, or a code from 400 up with the reason in words (ErrorAnswer).
//
//	POST /cluster/promote   {"node": 4}                            gives a joined node a vote
//	POST /cluster/remove    {"node": 4, "force": false}            takes a node out for good
//	POST /cluster/drain     {"node": 4, "undo": false}             moves everything away from a node
//	POST /cluster/balance                                          evens out; answers {"moves": 3}
//	POST /cluster/set-rf    {"topics": [], "replication_factor": 3}  no topics: all of them
//	POST /cluster/finalize  {"level": 0}                           0: the highest level that all nodes know
//
// The server is up before the broker is: recovery of a large log must not look like a dead process to a
// supervisor. It has no authentication, so it listens on the loopback address by default: who reaches it
// may do all of the above.
package admin
