package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/process"
)

// bookkeeper changes topics, settings and group offsets during the load and remembers what was acknowledged.
type bookkeeper struct {
	admin  *kadm.Client
	ledger *ledger

	mu        sync.Mutex
	created   map[string]bool // acknowledged: it exists
	deleted   map[string]bool // acknowledged: it does not
	doubtful  map[string]bool // asked for, no answer: both are right
	committed int64           // highest acknowledged group offset
	asked     int64           // highest that was asked for
}

// group is the consumer group whose offsets are committed.
const group = "crashtest"

func newBookkeeper(client *kgo.Client, l *ledger) *bookkeeper {
	return &bookkeeper{admin: kadm.NewClient(client), ledger: l, created: map[string]bool{}, deleted: map[string]bool{}, doubtful: map[string]bool{}, committed: -1, asked: -1}
}

// work changes things until ctx ends.
func (b *bookkeeper) work(ctx context.Context, round int) {
	for n := 0; ctx.Err() == nil; n++ {
		b.commit(ctx)
		if n%8 == 0 {
			b.topic(ctx, fmt.Sprintf("side-%d-%d", round, n))
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (b *bookkeeper) commit(ctx context.Context) {
	b.mu.Lock()
	b.asked++
	at := b.asked
	b.mu.Unlock()
	offsets := kadm.Offsets{}
	offsets.AddOffset(topics[0].name, 0, at, -1)
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := b.admin.CommitAllOffsets(asking, group, offsets); err != nil {
		return
	}
	b.mu.Lock()
	b.committed = at
	b.mu.Unlock()
}

// topic creates a topic and deletes the one before.
func (b *bookkeeper) topic(ctx context.Context, name string) {
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b.mark(b.doubtful, name)
	if r, err := b.admin.CreateTopic(asking, 2, 1, nil, name); err == nil && r.Err == nil {
		b.mark(b.created, name)
	} else {
		return
	}
	b.mu.Lock()
	var victim string
	for t := range b.created {
		if t != name {
			victim = t
			break
		}
	}
	b.mu.Unlock()
	if victim == "" {
		return
	}
	b.mark(b.doubtful, victim)
	if r, err := b.admin.DeleteTopics(asking, victim); err == nil && r[victim].Err == nil {
		b.mark(b.deleted, victim)
	}
}

// mark moves a name into one of the three sets.
func (b *bookkeeper) mark(into map[string]bool, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range []map[string]bool{b.created, b.deleted, b.doubtful} {
		delete(m, name)
	}
	into[name] = true
}

// audit compares the broker's answers with what was acknowledged. Nothing may be under way.
func (b *bookkeeper) audit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, process.ReadyTimeout)
	defer cancel()
	list, err := b.admin.ListTopics(ctx)
	if err != nil {
		return err
	}
	offsets, err := b.admin.FetchOffsets(ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return fmt.Errorf("committed offsets: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for name := range b.created {
		if !list.Has(name) {
			b.ledger.broke("topic %s: its creation was acknowledged, it is not there", name)
		}
	}
	for name := range b.deleted {
		if list.Has(name) {
			b.ledger.broke("topic %s: its deletion was acknowledged, it is there", name)
		}
	}
	clear(b.doubtful)
	if at, ok := offsets.Lookup(topics[0].name, 0); b.committed >= 0 && (!ok || at.At < b.committed || at.At > b.asked) {
		b.ledger.broke("group %s is at offset %d (%t), %d was acknowledged and %d asked for", group, at.At, ok, b.committed, b.asked)
	} else if ok {
		b.committed = at.At
	}
	return nil
}
