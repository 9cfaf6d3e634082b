package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Node is what the server asks of a broker.
type Node interface {
	Ready() bool
	WriteMetrics(w io.Writer)
}

// Server answers the admin requests of one process. It is safe for concurrent use.
type Server struct {
	http     *http.Server
	listener net.Listener
	node     atomic.Pointer[Node]    // nil until Attach
	cluster  atomic.Pointer[Cluster] // nil until AttachCluster
	state    atomic.Pointer[string]  // why not ready, while there is no node or it is ending
	failed   atomic.Pointer[error]
	started  time.Time
}

// Limits of a connection: nothing that is served here is large, and a client that stalls is let go.
const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = 60 * time.Second
	headerBytesMax = 16 << 10
)

// Listen opens the server on addr and serves until Close.
func Listen(addr string) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("admin address: %w", err)
	}
	s := &Server{listener: l, started: time.Now()}
	s.SetState("starting: recovering the log")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", s.metrics)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	s.routeCluster(mux)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", s.index)
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytesMax}
	go func() {
		if err := s.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.Fail(fmt.Errorf("admin server: %w", err))
		}
	}()
	return s, nil
}

// Addr is the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Attach hands over the started broker: from now on readiness and metrics are its own.
func (s *Server) Attach(n Node) {
	s.node.Store(&n)
	s.state.Store(nil)
}

// SetState says why the process is not ready.
func (s *Server) SetState(why string) { s.state.Store(&why) }

// Fail makes /healthz fail with the reason, for the moments before the process ends.
func (s *Server) Fail(err error) { s.failed.Store(&err) }

// Close ends the server; requests under way (a profile, say) are cut when ctx ends.
func (s *Server) Close(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	ready := 0
	if n := s.node.Load(); n != nil {
		(*n).WriteMetrics(w)
		if (*n).Ready() && s.state.Load() == nil {
			ready = 1
		}
	}
	fmt.Fprintf(w, "millrace_ready %d\n", ready)
	fmt.Fprintf(w, "millrace_uptime_seconds %.3f\n", time.Since(s.started).Seconds())
	metrics.WriteProcessMetrics(w)
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := s.failed.Load(); err != nil {
		http.Error(w, "failed: "+(*err).Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	switch why, err, n := s.state.Load(), s.failed.Load(), s.node.Load(); {
	case err != nil:
		http.Error(w, "failed: "+(*err).Error(), http.StatusServiceUnavailable)
	case why != nil:
		http.Error(w, *why, http.StatusServiceUnavailable)
	case n == nil || !(*n).Ready():
		http.Error(w, "not ready", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ready")
	}
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, "millrace\n\n/metrics\n/healthz\n/readyz\n/cluster\n/debug/pprof/\n")
}
