package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"millrace/broker"
)

// stuckAfter is how many looks may show the same before a hint is given.
const stuckAfter = 30

// progress is one look at something that is under way.
type progress struct {
	text string // how far it is; told when it changes
	done bool
}

// wait looks at the cluster until it is done, and tells every change of how far it is. A node that cannot be asked is
// tried again for as long as the timeout: nodes restart, controllers change. hint says what may be wrong when nothing
// moves.
func (c *clusterClient) wait(ctx context.Context, w io.Writer, hint string, look func(broker.ClusterStatus) (progress, error)) (broker.ClusterStatus, error) {
	last, same, answered := "", 0, time.Now()
	tick := time.NewTicker(max(time.Duration(c.interval), time.Millisecond))
	defer tick.Stop()
	for {
		s, err := c.status(ctx)
		switch {
		case ctx.Err() != nil:
			return s, interrupted(ctx)
		case err != nil && (isFinal(err) || time.Since(answered) > time.Duration(c.timeout)):
			return s, err
		case err == nil:
			answered = time.Now()
			p, err := look(s)
			if err != nil {
				return s, err
			}
			if p.text != last {
				last, same = p.text, 0
				fmt.Fprintln(w, p.text)
			}
			if p.done {
				return s, nil
			}
			if same++; same == stuckAfter {
				fmt.Fprintln(w, hint)
			}
		}
		select {
		case <-ctx.Done():
			return s, interrupted(ctx)
		case <-tick.C:
		}
	}
}

// interrupted is the end of waiting, not of what is waited for.
func interrupted(ctx context.Context) error {
	return fmt.Errorf("stopped waiting, the cluster goes on with it: %w", ctx.Err())
}

// isFinal reports whether asking again is of no use: a mistake, or a node that is in no cluster.
func isFinal(err error) bool {
	var usage *usageError
	var r *refusal
	return errors.As(err, &usage) || errors.As(err, &r) && r.code >= 400 && r.code < 500 && r.code != 409
}
