package load

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"millrace/tools/chaos/history"
)

// Committer raises a group's offset and reads it back. A commit whose answer is missing may still arrive later, behind
// its successors, and nothing fences it: so it then goes on with another group.
type Committer struct{ Target *Target }

const (
	commitTimeout = 5 * time.Second
	commitEvery   = 20 * time.Millisecond
)

// Run commits until ctx ends.
func (c *Committer) Run(ctx context.Context) error {
	client, err := c.Target.client()
	if err != nil {
		return err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	w := history.Where{Topic: c.Target.Topics[0]}
	group, at := 0, int64(0)
	for ctx.Err() == nil {
		e := history.Event{Kind: history.Commit, Client: FirstCommitter, Where: w, Offset: at, Text: fmt.Sprintf("commits-%d", group)}
		if c.commit(ctx, admin, &e) == nil {
			c.Target.Recorder.Add(e)
			at++
		} else {
			group, at = group+1, 0
		}
		if offset, ok := c.fetch(ctx, admin, &e); ok {
			e.Kind, e.Offset = history.Fetched, offset
			c.Target.Recorder.Add(e)
		}
		select {
		case <-ctx.Done():
		case <-time.After(commitEvery):
		}
	}
	return nil
}

func (c *Committer) commit(ctx context.Context, admin *kadm.Client, e *history.Event) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	offsets := kadm.Offsets{}
	offsets.AddOffset(e.Where.Topic, e.Where.Partition, e.Offset, -1)
	return admin.CommitAllOffsets(ctx, e.Text, offsets)
}

// fetch reads the group's offset; none is -1.
func (c *Committer) fetch(ctx context.Context, admin *kadm.Client, e *history.Event) (int64, bool) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	offsets, err := admin.FetchOffsets(ctx, e.Text)
	if err != nil {
		return 0, false
	}
	at, ok := offsets.Lookup(e.Where.Topic, e.Where.Partition)
	switch {
	case !ok:
		return -1, true
	case at.Err != nil:
		return 0, false
	}
	return at.At, true
}
