package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"millrace/tools/chaos/cluster"
)

// Plan draws faults from a seed. It is for one goroutine.
type Plan struct {
	faults []Fault
	nodes  int
	random *rand.Rand
}

// NewPlan makes a plan of these faults.
func NewPlan(faults []Fault, nodes int, seed uint64) *Plan {
	return &Plan{faults: faults, nodes: nodes, random: rand.New(rand.NewPCG(seed, 0x6661756c74))}
}

// Step is what happens next: after Pause, the Parts at the same time.
type Step struct {
	Pause time.Duration
	Parts []Part
}

// Part is one fault of a step.
type Part struct {
	Fault Fault
	Node  int // its number; 0: all
	Hold  time.Duration
	seed  uint64
}

func (s Step) String() string {
	var parts []string
	for _, p := range s.Parts {
		text := p.Fault.Name
		if p.Node > 0 {
			text += fmt.Sprintf(" node %d", p.Node)
		}
		parts = append(parts, fmt.Sprintf("%s for %v", text, p.Hold.Round(time.Millisecond)))
	}
	return strings.Join(parts, " + ")
}

// The time between two steps: half of them follow at once, before the cluster has recovered.
const (
	pauseShort = 300 * time.Millisecond
	pauseMax   = 5 * time.Second
)

// pairEvery says how often two nodes suffer at once.
const pairEvery = 4

// Next draws a step.
func (p *Plan) Next() Step {
	s := Step{Pause: between(p.random, 0, pauseShort)}
	if p.random.IntN(2) == 0 {
		s.Pause = between(p.random, pauseShort, pauseMax)
	}
	first := p.part(p.faults[p.random.IntN(len(p.faults))], 0)
	s.Parts = []Part{first}
	if first.Fault.All || p.nodes < 2 || p.random.IntN(pairEvery) > 0 {
		return s
	}
	for {
		if f := p.faults[p.random.IntN(len(p.faults))]; !f.All {
			s.Parts = append(s.Parts, p.part(f, first.Node))
			return s
		}
	}
}

// part draws a node other than not, and how long.
func (p *Plan) part(f Fault, not int) Part {
	part := Part{Fault: f, Hold: between(p.random, f.Min, f.Max), seed: p.random.Uint64()}
	for !f.All && (part.Node == 0 || part.Node == not) {
		part.Node = 1 + p.random.IntN(p.nodes)
	}
	return part
}

func between(r *rand.Rand, low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(r.Int64N(int64(high-low)))
}

// Do lets a step happen and returns when all of it was taken back and every node runs. It takes faults back early
// when ctx ends.
func (s Step) Do(ctx context.Context, c *cluster.Cluster) error {
	errs := make([]error, len(s.Parts))
	var wait sync.WaitGroup
	for i, p := range s.Parts {
		wait.Go(func() {
			st := &strike{ctx: ctx, cluster: c, hold: p.Hold, random: rand.New(rand.NewPCG(p.seed, 0))}
			if p.Node > 0 {
				st.node = c.Nodes[p.Node-1]
			}
			if err := p.Fault.do(st); err != nil {
				errs[i] = fmt.Errorf("%s: %w", p.Fault.Name, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// Find returns the fault of a name.
func Find(faults []Fault, name string) (Fault, bool) {
	for _, f := range faults {
		if f.Name == name {
			return f, true
		}
	}
	return Fault{}, false
}

// One is a step of one fault without a pause.
func One(f Fault, node int, hold time.Duration) Step {
	return Step{Parts: []Part{{Fault: f, Node: node, Hold: hold, seed: uint64(node)}}}
}
