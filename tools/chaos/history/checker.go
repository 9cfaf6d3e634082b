package history

import (
	"fmt"
	"sort"
	"time"

	"millrace/tools/numbered"
)

// Checker judges events in the order in which they come. It is for one goroutine.
type Checker struct {
	partitions map[Where]*partition
	sent       map[int32]*producer
	faults     map[int64]*fault
	violations []Violation
	count      map[Rule]int
	counts     Counts
	finished   bool
}

// Counts is what a history held.
type Counts struct {
	Sent, Acked, Unknown int64
	AckedOne             int64 // part of Acked: acks=1
	LostOne              int64 // of these, not where they were acknowledged
	Shown                int64 // to consumers, before the end
	Final                int64 // to the last reader
	Lists, Leaders       int64
	Twice                int64 // records of producers that are not idempotent that stand twice
	UnknownFound         int64 // of the unknown, found in a log
	Faults               int64
}

// producer is what one producer has sent.
type producer struct {
	acks    Acks
	next    uint64                   // every number below was sent
	unknown map[numbered.ID]struct{} // nobody knows what became of them
}

// fault is the time of one fault.
type fault struct{ begin, end time.Duration }

// NewChecker makes a checker that knows nothing.
func NewChecker() *Checker {
	return &Checker{partitions: map[Where]*partition{}, sent: map[int32]*producer{}, faults: map[int64]*fault{}, count: map[Rule]int{}}
}

// Violations are those found so far: the first few of each rule.
func (c *Checker) Violations() []Violation { return c.violations }

// Count says how often a rule was broken.
func (c *Checker) Count(r Rule) int { return c.count[r] }

// Counts is what the history held so far. LostOne and Twice are known after Finish.
func (c *Checker) Counts() Counts { return c.counts }

func (c *Checker) broke(r Rule, w Where, offset int64, format string, args ...any) {
	c.count[r]++
	if c.count[r] <= perRule {
		c.violations = append(c.violations, Violation{r, w, offset, fmt.Sprintf(format, args...)})
	}
}

func (c *Checker) partition(w Where) *partition {
	p := c.partitions[w]
	if p == nil {
		p = newPartition()
		c.partitions[w] = p
	}
	return p
}

// Add judges one event.
func (c *Checker) Add(e *Event) {
	if c.finished {
		panic("BUG: an event after the end")
	}
	switch e.Kind {
	case Send:
		c.send(e)
	case Ack:
		c.ack(e)
	case Fail:
		c.counts.Unknown++
		if p := c.sent[int32(e.ID.Producer())]; p != nil {
			p.unknown[e.ID] = struct{}{}
		}
	case Poll:
		c.poll(e)
	case Corrupt:
		c.broke(Unsent, e.Where, e.Offset, "client %d: %s", e.Client, e.Text)
	case Assign:
		p := c.partition(e.Where)
		p.seen[consumer(e.Client)] = position{free: true, group: e.Text}
	case List:
		c.list(e)
	case Commit:
		p := c.partition(e.Where)
		p.commit[e.Text] = max(p.commit[e.Text], e.Offset)
	case Fetched:
		if want, ok := c.partition(e.Where).commit[e.Text]; ok && e.Offset < want {
			c.broke(CommitBack, e.Where, e.Offset, "group %s is there, %d was acknowledged before", e.Text, want)
		}
	case Leader:
		c.leader(e)
	case Lost:
		c.broke(DataLoss, e.Where, e.Offset, "client %d: %s", e.Client, e.Text)
	case Begin:
		c.counts.Faults++
		c.faults[e.Op] = &fault{e.At, -1}
	case End:
		if f := c.faults[e.Op]; f != nil {
			f.end = e.At
		}
	case Broken:
		c.broke(Harness, Where{}, 0, "%s", e.Text)
	case Differ:
		c.broke(Replicas, Where{}, 0, "%s", e.Text)
	case Final:
		c.final(e)
	case FinalEnd:
		c.partition(e.Where).end = e.Offset
	case Note:
	default:
		c.broke(Harness, e.Where, e.Offset, "an event of unknown kind %q", e.Kind)
	}
}

func (c *Checker) send(e *Event) {
	c.counts.Sent++
	n := int32(e.ID.Producer())
	p := c.sent[n]
	if p == nil {
		p = &producer{acks: e.Acks, unknown: map[numbered.ID]struct{}{}}
		c.sent[n] = p
	}
	if e.ID.Number() != p.next {
		c.broke(Harness, e.Where, 0, "%v was sent where number %d was due", e.ID, p.next)
	}
	p.next = e.ID.Number() + 1
}

func (c *Checker) ack(e *Event) {
	c.counts.Acked++
	p := c.partition(e.Where)
	if e.Offset < 0 {
		c.broke(Harness, e.Where, e.Offset, "%v was acknowledged without an offset", e.ID)
		return
	}
	if e.Acks == One {
		c.counts.AckedOne++
		p.ones[e.ID] = loneRecord{e.Offset, e.At}
		return
	}
	c.must(e, p, "was acknowledged")
	p.place(e.Offset).flags |= ackedAll
	p.knows(e.Client, e.Offset+1)
	if e.Acks != Idempotent {
		return // its retries may overtake each other
	}
	last, ok := p.sent[e.Client]
	if ok && e.ID.Number() > last.number && e.Offset <= last.offset || ok && e.ID.Number() < last.number && e.Offset >= last.offset {
		rule := SendBack
		if e.Op == last.op {
			rule = IntSendBack
		}
		c.broke(rule, e.Where, e.Offset, "%v was acknowledged there, record %d at offset %d", e.ID, last.number, last.offset)
	}
	p.sent[e.Client] = lastSent{e.ID.Number(), e.Offset, e.Op}
}

// must books that a value stands at an offset.
func (c *Checker) must(e *Event, p *partition, how string) {
	at := p.place(e.Offset)
	switch {
	case at.must == 0:
		at.must = e.ID
	case at.must != e.ID:
		c.broke(Inconsistent, e.Where, e.Offset, "%v %s by client %d at %v, %v was there before", e.ID, how, e.Client, e.At, at.must)
	}
}

// shown books that a value was read, and judges what does not depend on the reader.
func (c *Checker) shown(e *Event, p *partition) {
	if !c.wasSent(e.ID) {
		c.broke(Unsent, e.Where, e.Offset, "client %d was shown %v, which nobody has sent", e.Client, e.ID)
	}
	at := p.place(e.Offset)
	switch {
	case at.epoch == -1:
		at.epoch = e.Epoch
	case at.epoch != e.Epoch:
		c.broke(TwoEpochs, e.Where, e.Offset, "leader epoch %d was shown to client %d, %d before", e.Epoch, e.Client, at.epoch)
	}
}

func (c *Checker) wasSent(i numbered.ID) bool {
	p := c.sent[int32(i.Producer())]
	return p != nil && i.Number() < p.next
}

func (c *Checker) poll(e *Event) {
	c.counts.Shown++
	p := c.partition(e.Where)
	c.shown(e, p)
	c.must(e, p, "was shown")
	p.place(e.Offset).flags |= shown
	p.knows(e.Client, e.Offset+1)
	at, known := p.seen[consumer(e.Client)]
	switch {
	case !known || at.free:
		if at.group != "" && e.Offset > p.groups[at.group] {
			c.broke(PollSkip, e.Where, e.Offset, "group %s: client %d begins there, no member was shown offset %d", at.group, e.Client, p.groups[at.group])
		}
		if at.group == "" && e.Offset > 0 {
			c.broke(PollSkip, e.Where, e.Offset, "client %d begins there", e.Client)
		}
	case e.Offset < at.next:
		rule := PollBack
		if e.Op == at.op {
			rule = IntPollBack
		}
		c.broke(rule, e.Where, e.Offset, "client %d was at offset %d at %v", e.Client, at.next, e.At)
	case e.Offset > at.next:
		c.broke(PollSkip, e.Where, e.Offset, "client %d was at offset %d at %v", e.Client, at.next, e.At)
	}
	p.seen[consumer(e.Client)] = position{next: e.Offset + 1, op: e.Op, group: at.group}
	if at.group != "" {
		p.groups[at.group] = max(p.groups[at.group], e.Offset+1)
	}
}

func (c *Checker) list(e *Event) {
	c.counts.Lists++
	p := c.partition(e.Where)
	if want := p.known[e.Client]; e.Offset < want {
		c.broke(ListBack, e.Where, e.Offset, "client %d is told at %v that the partition ends there, it knew of offset %d", e.Client, e.At, want-1)
	}
	p.knows(e.Client, e.Offset)
}

func (c *Checker) leader(e *Event) {
	c.counts.Leaders++
	if e.Op < 0 {
		return // none
	}
	p := c.partition(e.Where)
	was, ok := p.leader[e.Epoch]
	if ok && was != e.Op {
		c.broke(TwoLeaders, e.Where, 0, "in epoch %d: node %d by client %d, node %d before", e.Epoch, e.Op, e.Client, was)
	}
	p.leader[e.Epoch] = e.Op
}

func (c *Checker) final(e *Event) {
	c.counts.Final++
	p := c.partition(e.Where)
	c.shown(e, p)
	at := p.place(e.Offset)
	if at.flags&hasFinal != 0 && at.final != e.ID {
		c.broke(Inconsistent, e.Where, e.Offset, "the last reader was shown %v and %v", at.final, e.ID)
	}
	at.final, at.flags = e.ID, at.flags|hasFinal
}

// Finish judges what can be judged when everything has been read. Nothing may be added after it.
func (c *Checker) Finish() []Violation {
	c.finished = true
	var all []Where
	for w := range c.partitions {
		all = append(all, w)
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i], all[j]
		return a.Topic < b.Topic || a.Topic == b.Topic && a.Partition < b.Partition
	})
	found := 0
	for _, w := range all {
		p := c.partitions[w]
		if p.end < 0 && len(p.places) == 0 && len(p.ones) == 0 {
			continue // known for its leaders or commits only
		}
		found++
		c.judge(w, p)
	}
	if found == 0 {
		c.broke(Harness, Where{}, 0, "the history holds no partition")
	}
	return c.violations
}

// judge compares one partition's last reading with what has to stand there.
func (c *Checker) judge(w Where, p *partition) {
	if p.end < 0 {
		c.broke(Harness, w, 0, "the last reader was not told where the partition ends")
		return
	}
	first := map[numbered.ID]int64{}
	newest := map[int]int64{} // by producer
	epoch := int32(-1)
	for i := range p.places {
		at := &p.places[i]
		c.judgePlace(w, p, int64(i), at)
		if at.flags&hasFinal == 0 {
			continue
		}
		if at.epoch < epoch {
			c.broke(EpochBack, w, int64(i), "leader epoch %d behind %d", at.epoch, epoch)
		}
		epoch = max(epoch, at.epoch)
		c.judgeValue(w, int64(i), at.final, first, newest)
	}
	for i := int64(len(p.places)); i < p.end; i++ {
		c.broke(Unseen, w, i, "the partition ends at %d, and this offset cannot be read", p.end)
	}
	c.judgeOnes(w, p, first)
}

func (c *Checker) judgePlace(w Where, p *partition, offset int64, at *place) {
	promised := at.flags&(ackedAll|shown) != 0
	if offset < p.end && at.flags&hasFinal == 0 {
		c.broke(Unseen, w, offset, "the partition ends at %d, and this offset cannot be read", p.end)
	}
	if promised && offset >= p.end {
		c.broke(Short, w, offset, "the partition ends at %d, %v had been %s", p.end, at.must, how(at.flags))
	}
	if !promised || at.flags&hasFinal != 0 && at.final == at.must {
		return
	}
	found := "nothing"
	if at.flags&hasFinal != 0 {
		found = at.final.String()
	}
	if at.flags&ackedAll != 0 {
		c.broke(LostWrite, w, offset, "%v was acknowledged, %s is there", at.must, found)
	} else {
		c.broke(LostRead, w, offset, "%v was shown, %s is there", at.must, found)
	}
}

func how(flags uint8) string {
	if flags&ackedAll != 0 {
		return "acknowledged"
	}
	return "shown"
}

// judgeValue looks for a value at a second offset, and for one before its elders.
func (c *Checker) judgeValue(w Where, offset int64, value numbered.ID, first map[numbered.ID]int64, newest map[int]int64) {
	by := c.sent[int32(value.Producer())]
	if by == nil {
		return // reported as unsent
	}
	if before, ok := first[value]; ok {
		if by.acks == Idempotent {
			c.broke(Duplicate, w, offset, "%v stands there and at offset %d", value, before)
		} else {
			c.counts.Twice++
		}
		return
	}
	first[value] = offset
	if _, ok := by.unknown[value]; ok {
		c.counts.UnknownFound++
	}
	if by.acks != Idempotent {
		return
	}
	last, ok := newest[value.Producer()]
	if ok && int64(value.Number()) < last {
		c.broke(Order, w, offset, "%v stands behind record %d", value, last)
	}
	newest[value.Producer()] = max(last, int64(value.Number()))
}

// The time around a fault in which acks=1 may lose: before it, for what was not replicated yet; after it, for
// leaders that have not heard.
const (
	nearBefore = 10 * time.Second
	nearAfter  = 15 * time.Second
)

// judgeOnes counts the records of acks=1 that are not where they were acknowledged.
func (c *Checker) judgeOnes(w Where, p *partition, first map[numbered.ID]int64) {
	for value, one := range p.ones {
		if one.offset < int64(len(p.places)) {
			at := &p.places[one.offset]
			if at.flags&hasFinal != 0 && at.final == value {
				continue
			}
		}
		c.counts.LostOne++
		if !c.nearFault(one.at) {
			where := "nowhere"
			if offset, ok := first[value]; ok {
				where = fmt.Sprintf("at offset %d", offset)
			}
			c.broke(UnexplainedLoss, w, one.offset, "%v was acknowledged with acks=1 at %v, it is %s, and no fault was near", value, one.at, where)
		}
	}
}

func (c *Checker) nearFault(at time.Duration) bool {
	for _, f := range c.faults {
		if at >= f.begin-nearBefore && (f.end < 0 || at <= f.end+nearAfter) {
			return true
		}
	}
	return false
}
