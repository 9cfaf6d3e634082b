package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

const (
	// killsEvery is how often the open loop of runKills has a record due.
	killsEvery = 2 * time.Millisecond
	// killsAfter is how long acknowledgements must flow until a pause is over.
	killsAfter = time.Second
	// killsPhase is what a kill is late by at random, so that it meets every phase of the brokers' sessions.
	killsPhase = 300 * time.Millisecond
)

// acknowledged watches the moments at which an open loop's records are acknowledged.
type acknowledged struct {
	mu      sync.Mutex
	count   int64
	last    time.Time     // of them
	longest time.Duration // between two, since mark
	due     time.Time     // latest moment at which a record was due that has been acknowledged
}

// add notes that a record, due at a moment, was acknowledged at another.
func (a *acknowledged) add(due, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.last.IsZero() {
		a.longest = max(a.longest, at.Sub(a.last))
	}
	a.count++
	a.last = at
	if due.After(a.due) {
		a.due = due
	}
}

// mark forgets all pauses until now, but not the one that has begun.
func (a *acknowledged) mark() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.longest = 0
}

func (a *acknowledged) now() (due time.Time, longest time.Duration, count int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.due, a.longest, a.count
}

// flowing waits until a record that was due at that moment or later is acknowledged.
func (a *acknowledged) flowing(ctx context.Context, since time.Time) error {
	for began := time.Now(); ; {
		if due, _, _ := a.now(); !due.Before(since) {
			return nil
		}
		if time.Since(began) > probeMax {
			return fmt.Errorf("no acknowledgement for %v", probeMax)
		}
		if sleep(ctx, killsEvery); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// runKills kills the leader and a follower in turn, under an open loop, and books the pauses.
func runKills(ctx context.Context, s *suite, srv *server, _ *workload, r *result) error {
	obs, err := srv.observer()
	if err != nil {
		return err
	}
	defer obs.close()
	topic := topicShape{"kills", 1}
	if _, err := obs.makeTopic(ctx, topic); err != nil {
		return err
	}
	p, err := newProbing(srv, topic.name)
	if err != nil {
		return err
	}
	defer p.close()
	acks := &acknowledged{}
	producing, stop := context.WithCancel(ctx)
	var producer sync.WaitGroup
	defer producer.Wait()
	defer stop()
	producer.Go(func() {
		tick := time.NewTicker(killsEvery)
		defer tick.Stop()
		for {
			select {
			case <-producing.Done():
				return
			case due := <-tick.C:
				p.send(producing, 0, func(at time.Time, err error) {
					if err == nil {
						acks.add(due, at)
					}
				})
			}
		}
	})
	gaps := map[string][]float64{}
	for range s.opts.kills {
		for _, role := range []string{"leader", "follower"} {
			gap, err := obs.kill(ctx, topic.name, role, acks)
			if err != nil {
				return fmt.Errorf("a %s was killed: %w", role, err)
			}
			gaps[role] = append(gaps[role], float64(gap.Microseconds())/1e3)
		}
	}
	stop()
	producer.Wait()
	r.Brokers = len(srv.nodes)
	r.set("kills", float64(s.opts.kills))
	for role, list := range gaps {
		slices.Sort(list)
		r.set(role+"_gap", median(list))
		r.set(role+"_gap_worst", list[len(list)-1])
	}
	ends, err := kadm.NewClient(obs.client).ListEndOffsets(ctx, topic.name)
	if err != nil {
		return err
	}
	end, _ := ends.Lookup(topic.name, 0)
	if _, _, count := acks.now(); end.Offset < count {
		r.mark(fmt.Sprintf(markVoid+": %d acknowledged, %d stored", count, end.Offset))
	}
	if err := obs.sameReplicas(ctx, topic.name); err != nil {
		r.mark(markVoid + ": " + err.Error())
	}
	return nil
}

// kill kills a node that plays a role for partition 0, starts it again once acknowledgements flow, and returns how
// long they paused at most.
func (o *observer) kill(ctx context.Context, topic, role string, acks *acknowledged) (time.Duration, error) {
	s, err := o.await(ctx, topic, inSyncTimeout, inSync(clusterNodes))
	if err != nil {
		return 0, err
	}
	leader := s.partitions[0].leader
	victim := o.srv.nodes[o.srv.index(leader)]
	if role == "follower" {
		if victim, err = o.victim(ctx, leader); err != nil {
			return 0, err
		}
	}
	if err := acks.flowing(ctx, time.Now()); err != nil {
		return 0, err
	}
	sleep(ctx, rand.N(killsPhase))
	acks.mark()
	killed := time.Now()
	victim.proc.kill()
	if err := acks.flowing(ctx, killed); err != nil {
		return 0, err
	}
	if err := acks.flowing(ctx, time.Now().Add(killsAfter)); err != nil {
		return 0, err
	}
	_, gap, _ := acks.now()
	if err := victim.start(ctx); err != nil {
		return 0, err
	}
	return gap, victim.ready(ctx)
}
