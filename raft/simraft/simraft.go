// Package simraft is a replicated log of commands without raft, for simulations: a seeded model of what may become of a
// proposal, in the place of raft.Node.Propose.
//
//	Propose ──> committed and answered                      Commit: at the end of the log, as raft.Image.Apply has it
//	        ├─> committed, the answer is lost
//	        ├─> dropped, nobody hears
//	        └─> committed late, maybe after its proposer gave up, or is no controller any more
//
// A Log has no clock: Pass is told the time. It is not safe for concurrent use.
package simraft

import (
	"math/rand/v2"
	"slices"
	"time"

	"millrace/raft"
)

// Chances are how often, of 100 proposals, something goes wrong.
type Chances struct {
	Drop int           // never committed; no answer
	Lose int           // committed at once; no answer
	Late int           // committed after up to Max; no answer
	Max  time.Duration // how late
}

// Usual are the chances of a bad network: every fifth proposal goes wrong.
func Usual() Chances { return Chances{Drop: 7, Lose: 7, Late: 7, Max: 5 * time.Second} }

// Log is the log, and the images after each of its commands.
type Log struct {
	// Committed is told of each command, with the images around it; nil: nobody listens.
	Committed func(old, now *raft.Image, c raft.Command, r raft.Result)
	// Failed is told that a command cannot be applied: a real replica would have stopped.
	Failed func(c raft.Command, err error)

	rng    *rand.Rand
	images []*raft.Image
	late   []proposal
	term   uint64
}

type proposal struct {
	at time.Duration
	c  raft.Command
}

// New returns an empty log. The same seed and the same calls give the same log.
func New(rng *rand.Rand) *Log { return &Log{rng: rng, images: []*raft.Image{raft.EmptyImage()}} }

// Head is the newest image.
func (l *Log) Head() *raft.Image { return l.images[len(l.images)-1] }

// Len is the number of images; At returns one of them: At(n) holds n commands.
func (l *Log) Len() int { return len(l.images) }

// At returns the image after n commands.
func (l *Log) At(n int) *raft.Image { return l.images[n] }

// Commit applies a command at the end of the log.
func (l *Log) Commit(c raft.Command) raft.Result {
	old := l.Head()
	now, r, err := old.Apply(old.Index+1, c)
	if err != nil {
		if l.Failed != nil {
			l.Failed(c, err)
		}
		return r
	}
	l.images = append(l.images, now)
	if l.Committed != nil {
		l.Committed(old, now, c, r)
	}
	return r
}

// Propose draws what becomes of a proposal. answered is false where its proposer hears nothing: then it may have been
// committed, may be later, or never.
func (l *Log) Propose(now time.Duration, c raft.Command, p Chances) (r raft.Result, answered bool) {
	switch n := l.rng.IntN(100); {
	case n < p.Drop:
	case n < p.Drop+p.Lose:
		l.Commit(c)
	case n < p.Drop+p.Lose+p.Late:
		l.Delay(now+time.Duration(l.rng.Int64N(int64(p.Max)+1)), c)
	default:
		return l.Commit(c), true
	}
	return raft.Result{}, false
}

// Delay commits a command at a later time.
func (l *Log) Delay(at time.Duration, c raft.Command) { l.late = append(l.late, proposal{at, c}) }

// Pass commits the late proposals whose time has come.
func (l *Log) Pass(now time.Duration) {
	for i := 0; i < len(l.late); {
		if p := l.late[i]; p.at <= now {
			l.late = slices.Delete(l.late, i, i+1)
			l.Commit(p.c)
			continue
		}
		i++
	}
}

// Late calls f for every proposal that may still be committed.
func (l *Log) Late(f func(raft.Command)) {
	for _, p := range l.late {
		f(p.c)
	}
}

// Claim makes a node the controller, in a new term, and returns its epoch.
func (l *Log) Claim(node int32) uint64 {
	l.term++
	return uint64(l.Commit(raft.ClaimController{NodeID: node, Term: l.term}).Value)
}
