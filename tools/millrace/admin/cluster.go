package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"millrace/broker"
)

// Cluster is what the server asks of a node of a cluster. Every call asks a quorum or proposes a command; an error is
// shown to the operator in its own words.
type Cluster interface {
	ClusterStatus(ctx context.Context) (broker.ClusterStatus, error)
	// ClusterPromote gives a node that follows the metadata a vote.
	ClusterPromote(ctx context.Context, node int32) error
	// ClusterRemove takes a node out for good. Without force it must hold no replica, and the voters that are left must
	// be able to go on.
	ClusterRemove(ctx context.Context, node int32, force bool) error
	// ClusterDrain moves leaderships and replicas away from a node, or ends that.
	ClusterDrain(ctx context.Context, node int32, on bool) error
	// ClusterBalance starts moves that even out what the nodes hold, and says how many.
	ClusterBalance(ctx context.Context) (moves int, err error)
	// ClusterSetReplicationFactor starts moves that give topics rf replicas; no topics means all of them.
	ClusterSetReplicationFactor(ctx context.Context, topics []string, rf int) error
	// ClusterFinalize raises the metadata level; 0 means to the highest that all nodes know.
	ClusterFinalize(ctx context.Context, level int) error
}

// HeaderGuard must be in every POST, with any value. A page in a browser cannot send it to another site without asking
// first, and this server allows nothing that asks.
const HeaderGuard = "X-Millrace"

const (
	// clusterTimeout bounds one request: a change of voters waits until the voter knows.
	clusterTimeout = 30 * time.Second
	bodyBytesMax   = 1 << 20
)

// Bodies of the POST requests.
type (
	// NodeRequest is the body of /cluster/promote.
	NodeRequest struct {
		Node *int32 `json:"node"`
	}
	// RemoveRequest is the body of /cluster/remove.
	RemoveRequest struct {
		Node  *int32 `json:"node"`
		Force bool   `json:"force"`
	}
	// DrainRequest is the body of /cluster/drain.
	DrainRequest struct {
		Node *int32 `json:"node"`
		Undo bool   `json:"undo"`
	}
	// ReplicationRequest is the body of /cluster/set-rf; no topics means all, the internal ones included.
	ReplicationRequest struct {
		Topics            []string `json:"topics"`
		ReplicationFactor int      `json:"replication_factor"`
	}
	// FinalizeRequest is the body of /cluster/finalize; level 0 is the highest that all nodes know.
	FinalizeRequest struct {
		Level int `json:"level"`
	}
	// BalanceAnswer is what /cluster/balance answers.
	BalanceAnswer struct {
		Moves int `json:"moves"`
	}
	// ErrorAnswer is what every failed request answers.
	ErrorAnswer struct {
		Error string `json:"error"`
	}
)

// AttachCluster hands over a node of a cluster: from now on /cluster answers.
func (s *Server) AttachCluster(c Cluster) { s.cluster.Store(&c) }

// routeCluster puts the requests on the mux.
func (s *Server) routeCluster(mux *http.ServeMux) {
	mux.HandleFunc("GET /cluster", s.onCluster(func(ctx context.Context, c Cluster, _ io.Reader) (any, error) {
		return c.ClusterStatus(ctx)
	}))
	post := func(path string, f func(ctx context.Context, c Cluster, body io.Reader) (any, error)) {
		mux.HandleFunc("POST /cluster/"+path, guarded(s.onCluster(f)))
	}
	post("promote", func(ctx context.Context, c Cluster, body io.Reader) (any, error) {
		var r NodeRequest
		if err := read(body, &r, &r.Node); err != nil {
			return nil, err
		}
		return nil, c.ClusterPromote(ctx, *r.Node)
	})
	post("remove", func(ctx context.Context, c Cluster, body io.Reader) (any, error) {
		var r RemoveRequest
		if err := read(body, &r, &r.Node); err != nil {
			return nil, err
		}
		return nil, c.ClusterRemove(ctx, *r.Node, r.Force)
	})
	post("drain", func(ctx context.Context, c Cluster, body io.Reader) (any, error) {
		var r DrainRequest
		if err := read(body, &r, &r.Node); err != nil {
			return nil, err
		}
		return nil, c.ClusterDrain(ctx, *r.Node, !r.Undo)
	})
	post("balance", func(ctx context.Context, c Cluster, body io.Reader) (any, error) {
		if err := read(body, &struct{}{}, nil); err != nil {
			return nil, err
		}
		moves, err := c.ClusterBalance(ctx)
		return BalanceAnswer{moves}, err
	})
	post("set-rf", func(ctx context.Context, c Cluster, body io.Reader) (any, error) {
		var r ReplicationRequest
		if err := read(body, &r, nil); err != nil {
			return nil, err
		}
		if r.ReplicationFactor < 1 {
			return nil, badRequest{errors.New("replication_factor must be 1 or more")}
		}
		return nil, c.ClusterSetReplicationFactor(ctx, r.Topics, r.ReplicationFactor)
	})
	post("finalize", func(ctx context.Context, c Cluster, body io.Reader) (any, error) {
		var r FinalizeRequest
		if err := read(body, &r, nil); err != nil {
			return nil, err
		}
		if r.Level < 0 {
			return nil, badRequest{errors.New("level must be 0 (the highest possible) or more")}
		}
		return nil, c.ClusterFinalize(ctx, r.Level)
	})
}

// badRequest is a mistake of who asks.
type badRequest struct{ error }

// read decodes a body, which may be empty; unknown fields are mistakes, as they would be ignored otherwise. node, if
// not nil, is the field that must have been given.
func read(body io.Reader, into any, node **int32) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return badRequest{fmt.Errorf("body: %w", err)}
	}
	if d.More() {
		return badRequest{errors.New("body: more than one JSON value")}
	}
	if node != nil && *node == nil {
		return badRequest{errors.New(`body: say which node: {"node": 2}`)}
	}
	return nil
}

// guarded refuses what a page in a browser may have sent. The header alone does not keep out a page whose name was
// made to point here; Origin, which browsers add to every POST, does.
func guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(HeaderGuard) == "" || r.Header.Get("Origin") != "" {
			answerError(w, http.StatusForbidden, errors.New("a change needs the header "+HeaderGuard+": 1, so that no web page can make it"))
			return
		}
		next(w, r)
	}
}

// onCluster finds the node and turns the outcome of f into an answer.
func (s *Server) onCluster(f func(ctx context.Context, c Cluster, body io.Reader) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := s.cluster.Load(), s.failed.Load()
		switch why := s.state.Load(); {
		case err != nil:
			answerError(w, http.StatusServiceUnavailable, fmt.Errorf("failed: %w", *err))
			return
		case c == nil && why != nil:
			answerError(w, http.StatusServiceUnavailable, errors.New(*why))
			return
		case c == nil:
			answerError(w, http.StatusNotFound, errors.New("this broker runs alone (standalone): it belongs to no cluster"))
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), clusterTimeout)
		defer cancel()
		answer, failure := f(ctx, *c, http.MaxBytesReader(w, r.Body, bodyBytesMax))
		var bad badRequest
		switch {
		case errors.As(failure, &bad):
			answerError(w, http.StatusBadRequest, failure)
		case errors.Is(failure, context.DeadlineExceeded):
			answerError(w, http.StatusGatewayTimeout, failure)
		case failure != nil:
			answerError(w, http.StatusConflict, failure)
		case answer == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			answerJSON(w, http.StatusOK, answer)
		}
	}
}

func answerError(w http.ResponseWriter, code int, err error) {
	answerJSON(w, code, ErrorAnswer{err.Error()})
}

func answerJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client has gone
}
