// Package admin is the broker's HTTP side: /metrics, /healthz, /readyz and /debug/pprof.
//
//	GET /metrics       Prometheus text; counters of the broker and of the Go process
//	GET /healthz       200 while the process should be left alone (also while it recovers), 503 once it has failed
//	GET /readyz        200 when clients are served, 503 with the reason before that and while it shuts down
//	GET /debug/pprof/  Go's profiles
//
// The server is up before the broker is: recovery of a large log must not look like a dead process to a
// supervisor. It has no authentication, so it listens on the loopback address by default.
package admin
