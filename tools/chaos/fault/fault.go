package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"millrace/tools/chaos/cluster"
	"millrace/tools/powercut"
)

// Fault is one thing that can go wrong.
type Fault struct {
	Name string
	All  bool // concerns all nodes: nothing else at the same time
	// Min and Max bound how long it lasts.
	Min, Max time.Duration
	do       func(*strike) error
}

// strike is a fault under way.
type strike struct {
	ctx     context.Context
	cluster *cluster.Cluster
	node    *cluster.Node // of a fault that concerns one
	hold    time.Duration
	random  *rand.Rand
}

// wait lets the fault last; it ends early with the run.
func (s *strike) wait() {
	select {
	case <-s.ctx.Done():
	case <-time.After(s.hold):
	}
}

// revive starts a node in any case: a run that is over takes its faults back, too.
func (s *strike) revive(n *cluster.Node) error {
	if err := n.Revive(context.WithoutCancel(s.ctx)); err != nil {
		return fmt.Errorf("%v does not come back: %w", n, err)
	}
	return nil
}

// processes are the faults that need nothing.
var processes = []Fault{
	{"kill", false, 0, 8 * time.Second, kill},
	{"kill twice", false, 0, time.Second, killTwice},
	{"pause", false, 200 * time.Millisecond, 8 * time.Second, pause},
	{"restart", false, 0, 3 * time.Second, restart},
	{"rolling restart", true, 0, 500 * time.Millisecond, rolling},
	{"kill in turn", true, 0, 300 * time.Millisecond, killInTurn},
	{"kill all", true, 0, 2 * time.Second, killAll},
	{"kill a majority", true, 0, 5 * time.Second, killMajority},
}

// partitions are those that need namespaces.
var partitions = []Fault{
	{"isolate", false, time.Second, 12 * time.Second, isolate},
	{"isolate from nodes", false, time.Second, 12 * time.Second, isolateFromNodes},
	{"mute", false, time.Second, 12 * time.Second, mute},
	{"deafen", false, time.Second, 12 * time.Second, deafen},
	{"bridge", false, time.Second, 12 * time.Second, bridge},
	{"unplug", false, time.Second, 12 * time.Second, unplug},
	{"all apart", true, time.Second, 6 * time.Second, allApart},
}

var throttled = Fault{"throttle", false, 2 * time.Second, 10 * time.Second, throttle}

// disks are those that need disks.
var disks = []Fault{
	{"power", false, 200 * time.Millisecond, 3 * time.Second, power},
	{"power of all", true, 200 * time.Millisecond, 2 * time.Second, powerOfAll},
	{"full disk", false, 2 * time.Second, 10 * time.Second, full},
	{"slow flushes", false, time.Second, 10 * time.Second, slowFlushes},
	{"failing flushes", false, time.Second, 4 * time.Second, failingFlushes},
}

// Catalog returns what can be done to c and a line for each thing that cannot.
func Catalog(c *cluster.Cluster) (faults []Fault, skipped []string) {
	for _, f := range processes {
		if len(c.Nodes) > 1 || f.Name == "kill" || f.Name == "kill twice" || f.Name == "pause" || f.Name == "restart" {
			faults = append(faults, f)
		}
	}
	switch {
	case len(c.Nodes) == 1:
	case !c.Namespaces():
		skipped = append(skipped, "network partitions: the nodes have no network of their own")
	default:
		faults = append(faults, partitions...)
		if err := throttleAvailable(); err != nil {
			skipped = append(skipped, fmt.Sprintf("throttled links: %v", err))
		} else {
			faults = append(faults, throttled)
		}
	}
	if !c.Disks() {
		skipped = append(skipped, "power cuts, full disks, slow and failing flushes: the nodes have no disk of their own")
	} else {
		for _, f := range disks {
			if len(c.Nodes) > 1 || !f.All {
				faults = append(faults, f)
			}
		}
	}
	return faults, skipped
}

// throttleAvailable says whether the kernel has what Throttle needs.
func throttleAvailable() error {
	cmd := exec.Command("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1mbit", "burst", "64kb", "latency", "500ms")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tc: %w: %s", err, out)
	}
	return nil
}

func kill(s *strike) error {
	if err := s.node.Kill(); err != nil {
		return err
	}
	s.wait()
	return s.revive(s.node)
}

// killTwice kills a node again while it starts.
func killTwice(s *strike) error {
	if err := s.node.Kill(); err != nil {
		return err
	}
	if err := s.node.Launch(); err != nil {
		return err
	}
	s.wait()
	if err := s.node.Kill(); err != nil {
		return err
	}
	return s.revive(s.node)
}

func pause(s *strike) error {
	if err := s.node.Pause(); err != nil {
		return err
	}
	s.wait()
	return s.node.Resume()
}

func restart(s *strike) error {
	if _, err := s.node.Terminate(); err != nil {
		return fmt.Errorf("%v: %w", s.node, err)
	}
	s.wait()
	return s.revive(s.node)
}

func rolling(s *strike) error {
	for _, n := range s.cluster.Nodes {
		if _, err := n.Terminate(); err != nil {
			return fmt.Errorf("%v: %w", n, err)
		}
		s.wait()
		if err := s.revive(n); err != nil {
			return err
		}
	}
	return nil
}

// turns is how many nodes killInTurn kills.
const turns = 8

// killInTurn kills a node as soon as the one before it is back, when it can know least, or a moment later.
func killInTurn(s *strike) error {
	nodes := s.cluster.Nodes
	last := -1
	for range turns {
		i := s.random.IntN(len(nodes))
		for i == last {
			i = s.random.IntN(len(nodes))
		}
		last = i
		if err := nodes[i].Kill(); err != nil {
			return err
		}
		if err := s.revive(nodes[i]); err != nil {
			return err
		}
		if s.ctx.Err() != nil {
			return nil
		}
		if s.random.IntN(2) == 0 {
			s.wait()
		}
	}
	return nil
}

func killAll(s *strike) error {
	if err := s.cluster.Kill(); err != nil {
		return err
	}
	s.wait()
	return s.reviveAll()
}

// lateMax is how long one node may come back after the others, so that they have to do without it: often without
// the one that led.
const lateMax = 6 * time.Second

// reviveAll starts all nodes, half the time one of them late.
func (s *strike) reviveAll() error {
	late, wait := s.random.IntN(len(s.cluster.Nodes)), time.Duration(s.random.Int64N(int64(lateMax)))
	if s.random.IntN(2) == 0 {
		late = -1
	}
	errs := make([]error, len(s.cluster.Nodes))
	var all sync.WaitGroup
	for i, n := range s.cluster.Nodes {
		all.Go(func() {
			if i == late {
				select {
				case <-s.ctx.Done():
				case <-time.After(wait):
				}
			}
			errs[i] = s.revive(n)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func killMajority(s *strike) error {
	order := s.random.Perm(len(s.cluster.Nodes))[:len(s.cluster.Nodes)/2+1]
	for _, i := range order {
		if err := s.cluster.Nodes[i].Kill(); err != nil {
			return err
		}
	}
	s.wait()
	return s.reviveAll()
}

// cutting cuts ways for the time of the fault.
func (s *strike) cutting(ways [][2]int) error {
	var errs []error
	for _, w := range ways {
		errs = append(errs, s.cluster.Cut(w[0], w[1]))
	}
	s.wait()
	for _, w := range ways {
		errs = append(errs, s.cluster.Mend(w[0], w[1]))
	}
	return errors.Join(errs...)
}

// others are the ends that the node may speak with.
func (s *strike) others(clients bool) (ends []int) {
	for _, n := range s.cluster.Nodes {
		if n != s.node {
			ends = append(ends, n.ID)
		}
	}
	if clients {
		ends = append(ends, cluster.Clients)
	}
	return ends
}

func (s *strike) ways(in, out, clients bool) (ways [][2]int) {
	for _, end := range s.others(clients) {
		if in {
			ways = append(ways, [2]int{end, s.node.ID})
		}
		if out {
			ways = append(ways, [2]int{s.node.ID, end})
		}
	}
	return ways
}

func isolate(s *strike) error          { return s.cutting(s.ways(true, true, true)) }
func isolateFromNodes(s *strike) error { return s.cutting(s.ways(true, true, false)) }

// mute lets nobody hear a node, deafen lets it hear nobody; clients are spared.
func mute(s *strike) error   { return s.cutting(s.ways(false, true, false)) }
func deafen(s *strike) error { return s.cutting(s.ways(true, false, false)) }

// bridge cuts the other nodes from each other: all reach this one.
func bridge(s *strike) error {
	var ways [][2]int
	for _, a := range s.others(false) {
		for _, b := range s.others(false) {
			if a != b {
				ways = append(ways, [2]int{a, b})
			}
		}
	}
	return s.cutting(ways)
}

func allApart(s *strike) error {
	var ways [][2]int
	for _, a := range s.cluster.Nodes {
		for _, b := range s.cluster.Nodes {
			if a != b {
				ways = append(ways, [2]int{a.ID, b.ID})
			}
		}
	}
	return s.cutting(ways)
}

func unplug(s *strike) error {
	err := s.cluster.Unplug(s.node.ID)
	s.wait()
	return errors.Join(err, s.cluster.Plug(s.node.ID))
}

// throttledKbit is less than the load needs.
const throttledKbit = 512

func throttle(s *strike) error {
	err := s.cluster.Throttle(s.node.ID, throttledKbit)
	s.wait()
	return errors.Join(err, s.cluster.Throttle(s.node.ID, 0))
}

// dyingTime is how long a broker may go on without a disk before it is killed.
const dyingTime = 300 * time.Millisecond

// unpower ends a node by the loss of its disk's power and mounts what is left.
func unpower(n *cluster.Node, r *rand.Rand) error {
	if err := n.Volume.CutPower(r); err != nil {
		return err
	}
	time.Sleep(dyingTime)
	if err := n.Kill(); err != nil {
		return err
	}
	return n.Volume.Restore()
}

func power(s *strike) error {
	if err := unpower(s.node, s.random); err != nil {
		return err
	}
	s.wait()
	return s.revive(s.node)
}

// powerOfAll cuts the power of all at once. Often some of the disks were slow to flush before, so that nodes
// differ in what they have flushed.
func powerOfAll(s *strike) error {
	for _, n := range s.cluster.Nodes {
		if s.random.IntN(2) == 0 {
			n.Volume.SetFaults(powercut.Faults{FsyncDelay: 10 * time.Millisecond << s.random.IntN(5)})
		}
	}
	s.wait()
	for _, n := range s.cluster.Nodes {
		if err := n.Volume.CutPower(s.random); err != nil {
			return err
		}
	}
	time.Sleep(dyingTime)
	if err := s.cluster.Kill(); err != nil {
		return err
	}
	for _, n := range s.cluster.Nodes {
		if err := n.Volume.Restore(); err != nil {
			return err
		}
	}
	return s.reviveAll()
}

// fullLeaves is what is left free on a full disk.
const fullLeaves = 64 << 10

func full(s *strike) error {
	err := s.node.Volume.Fill(fullLeaves)
	s.wait()
	return errors.Join(err, s.node.Volume.Unfill(), s.revive(s.node)) // it may have ended
}

func slowFlushes(s *strike) error {
	delay := 20 * time.Millisecond << s.random.IntN(5)
	s.node.Volume.SetFaults(powercut.Faults{FsyncDelay: delay})
	s.wait()
	s.node.Volume.SetFaults(powercut.Faults{})
	return nil
}

// failingFlushes is a disk that dies: the node may end or live on without it, and is then given the disk as it was
// when it last flushed.
func failingFlushes(s *strike) error {
	s.node.Volume.SetFaults(powercut.Faults{FsyncErr: syscall.EIO})
	s.wait()
	if err := unpower(s.node, s.random); err != nil {
		return err
	}
	return s.revive(s.node)
}
