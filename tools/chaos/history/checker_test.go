package history

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/tools/numbered"
)

var t0 = Where{"t", 0}

// The producers of made-up histories.
const (
	idempotent = 0
	plain      = 1
	lone       = 2
	reader     = 10
	member     = 11
	other      = 12
)

func acksOf(producer int) Acks { return []Acks{Idempotent, All, One}[producer] }

func send(producer int, number uint64) Event {
	return Event{Kind: Send, Client: int32(producer), Where: t0, ID: numbered.New(producer, number), Acks: acksOf(producer)}
}

func ack(producer int, number uint64, offset, op int64) Event {
	e := send(producer, number)
	e.Kind, e.Offset, e.Op = Ack, offset, op
	return e
}

func poll(client int32, offset int64, producer int, number uint64, op int64) Event {
	return Event{Kind: Poll, Client: client, Where: t0, Offset: offset, ID: numbered.New(producer, number), Op: op, Epoch: 1}
}

func final(offset int64, producer int, number uint64) Event {
	e := poll(99, offset, producer, number, 0)
	e.Kind = Final
	return e
}

func with(e Event, change func(*Event)) Event {
	change(&e)
	return e
}

func end(offset int64) Event { return Event{Kind: FinalEnd, Client: 99, Where: t0, Offset: offset} }

// well is a run in which all is well: 0 0:0, 1 0:1, 2 1:0, 3 2:0, 4 0:2 (offset producer:number).
func well() []Event {
	return []Event{
		send(0, 0), send(0, 1), send(0, 2), send(1, 0), send(2, 0), send(1, 1),
		ack(0, 0, 0, 1), ack(0, 1, 1, 1), ack(1, 0, 2, 1), ack(2, 0, 3, 1), ack(0, 2, 4, 2),
		{Kind: Fail, Client: 1, Where: t0, ID: numbered.New(1, 1)},
		{Kind: Assign, Client: member, Where: t0, Text: "g"},
		{Kind: Leader, Client: 1, Where: t0, Epoch: 1, Op: 2},
		{Kind: Leader, Client: 2, Where: t0, Epoch: 1, Op: 2},
		{Kind: Leader, Client: 2, Where: t0, Epoch: 2, Op: -1},
		{Kind: List, Client: reader, Where: t0, Offset: 2},
		poll(reader, 0, 0, 0, 1), poll(reader, 1, 0, 1, 1), poll(reader, 2, 1, 0, 2),
		{Kind: List, Client: reader, Where: t0, Offset: 3},
		poll(member, 0, 0, 0, 1), poll(member, 1, 0, 1, 1),
		{Kind: Commit, Client: member, Where: t0, Text: "g", Offset: 1},
		{Kind: Fetched, Client: member, Where: t0, Text: "g", Offset: 1},
		{Kind: Assign, Client: other, Where: t0, Text: "g"},
		poll(other, 1, 0, 1, 1), poll(other, 2, 1, 0, 1),
		{Kind: Begin, Op: 1, Text: "kill 1"},
		{Kind: End, Op: 1},
	}
}

// ending is how well ends.
func ending() []Event {
	return []Event{end(5), final(0, 0, 0), final(1, 0, 1), final(2, 1, 0), final(3, 2, 0), final(4, 0, 2)}
}

func judge(events ...[]Event) (*Checker, []Violation) {
	c := NewChecker()
	for _, part := range events {
		for i := range part {
			c.Add(&part[i])
		}
	}
	return c, c.Finish()
}

func rulesOf(violations []Violation) []Rule {
	var rules []Rule
	for _, v := range violations {
		if !slices.Contains(rules, v.Rule) {
			rules = append(rules, v.Rule)
		}
	}
	slices.Sort(rules)
	return rules
}

func TestAGoodHistoryIsLeftAlone(t *testing.T) {
	c, violations := judge(well(), ending())
	if len(violations) != 0 {
		t.Fatal(violations)
	}
	want := Counts{Sent: 6, Acked: 5, Unknown: 1, AckedOne: 1, Shown: 7, Final: 5, Lists: 2, Leaders: 3, Faults: 1}
	if got := c.Counts(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// replace is ending with one event in the place of another.
func replace(i int, e Event) []Event {
	list := ending()
	list[i] = e
	return list
}

func without(i int) []Event { return slices.Delete(ending(), i, i+1) }

func TestEachRuleFires(t *testing.T) {
	for name, c := range map[string]struct {
		more  []Event // behind well
		final []Event // nil: ending
		want  []Rule
	}{
		"two acknowledgements at an offset": {[]Event{ack(1, 1, 4, 1)}, nil, []Rule{Inconsistent}},
		"another value is shown":            {[]Event{poll(reader, 3, 0, 2, 3), {Kind: Assign, Client: member, Where: t0, Text: "g"}, poll(member, 3, 2, 0, 4)}, nil, []Rule{Inconsistent, LostRead}},
		"acknowledged, another is there":    {nil, replace(3, final(2, 1, 1)), []Rule{LostWrite}},
		"acknowledged, cut off":             {nil, append([]Event{end(4)}, ending()[1:5]...), []Rule{LostWrite, Short}},
		"acknowledged, a hole":              {nil, without(3), []Rule{LostWrite, Unseen}},
		"shown, another is there":           {[]Event{poll(reader, 3, 2, 0, 3)}, replace(4, final(3, 1, 1)), []Rule{LostRead}},
		"shown, cut off":                    {[]Event{poll(reader, 3, 2, 0, 3), poll(reader, 4, 0, 2, 3), poll(reader, 5, 1, 1, 3)}, nil, []Rule{LostRead, Short}},
		"a hole where nothing is promised":  {nil, append(replace(0, end(7)), final(6, 1, 1)), []Rule{Unseen}},
		"nothing can be read at the end":    {nil, replace(0, end(6)), []Rule{Unseen}},
		"an idempotent record twice":        {nil, append(replace(0, end(6)), final(5, 0, 2)), []Rule{Duplicate}},
		"a plain record twice":              {nil, append(replace(0, end(6)), final(5, 1, 0)), nil},
		"the log in another order": {
			[]Event{send(0, 3), send(0, 4), {Kind: Fail, Client: 0, ID: numbered.New(0, 3), Where: t0}, {Kind: Fail, Client: 0, ID: numbered.New(0, 4), Where: t0}},
			append(replace(0, end(7)), final(5, 0, 4), final(6, 0, 3)),
			[]Rule{Order},
		},
		"sends of one client go back":             {[]Event{send(0, 3), send(0, 4), ack(0, 3, 6, 7), ack(0, 4, 5, 8)}, append(replace(0, end(7)), final(5, 0, 4), final(6, 0, 3)), []Rule{SendBack, Order}},
		"sends of one batch go back":              {[]Event{send(0, 3), send(0, 4), ack(0, 3, 6, 7), ack(0, 4, 5, 7)}, append(replace(0, end(7)), final(5, 0, 4), final(6, 0, 3)), []Rule{IntSendBack, Order}},
		"acknowledgements in another order":       {[]Event{send(0, 3), send(0, 4), ack(0, 4, 6, 8), ack(0, 3, 5, 7)}, append(replace(0, end(7)), final(5, 0, 3), final(6, 0, 4)), nil},
		"polls of one client go back":             {[]Event{poll(reader, 1, 0, 1, 3)}, nil, []Rule{PollBack}},
		"one poll goes back":                      {[]Event{poll(reader, 3, 2, 0, 2), poll(reader, 2, 1, 0, 2)}, nil, []Rule{IntPollBack}},
		"a consumer jumps":                        {[]Event{poll(reader, 4, 0, 2, 3)}, nil, []Rule{PollSkip}},
		"a consumer begins late":                  {[]Event{poll(13, 1, 0, 1, 3)}, nil, []Rule{PollSkip}},
		"a group member may go back":              {[]Event{{Kind: Assign, Client: member, Where: t0, Text: "g"}, poll(member, 0, 0, 0, 4)}, nil, nil},
		"a group jumps":                           {[]Event{{Kind: Assign, Client: member, Where: t0, Text: "g"}, poll(member, 4, 0, 2, 4)}, nil, []Rule{PollSkip}},
		"the newest offset goes back":             {[]Event{{Kind: List, Client: reader, Where: t0, Offset: 2}}, nil, []Rule{ListBack}},
		"the newest offset is below what is read": {[]Event{poll(reader, 3, 2, 0, 3), {Kind: List, Client: reader, Where: t0, Offset: 3}}, nil, []Rule{ListBack}},
		"another client may be behind":            {[]Event{{Kind: List, Client: other + 1, Where: t0, Offset: 1}}, nil, nil},
		"an older epoch behind a newer one":       {nil, replace(5, with(final(4, 0, 2), func(e *Event) { e.Epoch = 0 })), []Rule{EpochBack}},
		"one offset, two epochs":                  {[]Event{with(poll(reader, 3, 2, 0, 3), func(e *Event) { e.Epoch = 2 })}, nil, []Rule{EpochBack, TwoEpochs}},
		"two leaders in an epoch":                 {[]Event{{Kind: Leader, Client: 3, Where: t0, Epoch: 1, Op: 3}}, nil, []Rule{TwoLeaders}},
		"a commit goes back":                      {[]Event{{Kind: Fetched, Client: member, Where: t0, Text: "g", Offset: 0}}, nil, []Rule{CommitBack}},
		"a record from nowhere":                   {nil, append(replace(0, end(6)), final(5, 0, 77)), []Rule{Unsent}},
		"changed bytes":                           {[]Event{{Kind: Corrupt, Client: reader, Where: t0, Offset: 1, Text: "x"}}, nil, []Rule{Unsent}},
		"a client is told of a loss":              {[]Event{{Kind: Lost, Client: reader, Where: t0, Offset: 1, Text: "x"}}, nil, []Rule{DataLoss}},
		"acks=1 is lost near a fault":             {nil, replace(4, final(3, 1, 1)), nil},
		"replicas differ":                         {[]Event{{Kind: Differ, Text: "x"}}, nil, []Rule{Replicas}},
		"no progress":                             {[]Event{{Kind: Broken, Text: "x"}}, nil, []Rule{Harness}},
		"no end":                                  {nil, ending()[1:], []Rule{Harness}},
		"nothing":                                 {nil, []Event{}, []Rule{Harness}},
	} {
		last := c.final
		if last == nil {
			last = ending()
		}
		_, violations := judge(well(), c.more, last)
		want := slices.Clone(c.want)
		slices.Sort(want)
		if got := rulesOf(violations); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v: %v", name, got, want, violations)
		}
	}
}

func TestALossOfAcksOneFarFromAnyFaultIsNotExplained(t *testing.T) {
	script := []Event{send(2, 0), ack(2, 0, 0, 1), {Kind: Begin, Op: 1, At: time.Minute}, {Kind: End, Op: 1, At: 2 * time.Minute}, end(0)}
	c, violations := judge(script)
	if got := rulesOf(violations); !slices.Equal(got, []Rule{UnexplainedLoss}) || c.Counts().LostOne != 1 {
		t.Errorf("%v, %+v", violations, c.Counts())
	}
	script[1].At = time.Minute - time.Second
	if c, violations := judge(script); len(violations) != 0 || c.Counts().LostOne != 1 {
		t.Errorf("%v, %+v", violations, c.Counts())
	}
}

func TestRepetitionsAreCountedNotKept(t *testing.T) {
	var events []Event
	for range 50 {
		events = append(events, Event{Kind: Broken, Text: "x"})
	}
	c, violations := judge(well(), events, ending())
	if len(violations) != perRule || c.Count(Harness) != 50 {
		t.Errorf("%d kept, %d counted", len(violations), c.Count(Harness))
	}
}

// madeUp plays a partition that is one slice: whatever is recorded is true.
func madeUp(r *rand.Rand, steps int) []Event {
	var events []Event
	var log []numbered.ID
	next := [3]uint64{}
	at := map[int32]int{}
	committed := 0
	for op := range int64(steps) {
		switch r.IntN(6) {
		case 0, 1, 2:
			producer := r.IntN(3)
			for range 1 + r.IntN(4) {
				i := numbered.New(producer, next[producer])
				next[producer]++
				e := Event{Kind: Send, Client: int32(producer), Where: t0, ID: i, Acks: acksOf(producer), Op: op}
				events = append(events, e)
				if r.IntN(10) > 0 {
					log = append(log, i)
					e.Kind, e.Offset = Ack, int64(len(log)-1)
				} else {
					e.Kind = Fail
					if r.IntN(2) == 0 {
						log = append(log, i)
					}
				}
				events = append(events, e)
			}
		case 3:
			client := int32(10 + r.IntN(3))
			for n := r.IntN(5); n > 0 && at[client] < len(log); n-- {
				i := log[at[client]]
				events = append(events, poll(client, int64(at[client]), i.Producer(), i.Number(), op))
				at[client]++
			}
		case 4:
			client := int32(10 + r.IntN(3))
			events = append(events, Event{Kind: List, Client: client, Where: t0, Offset: int64(len(log))})
		case 5:
			committed += r.IntN(3)
			events = append(events, Event{Kind: Commit, Client: 20, Where: t0, Text: "g", Offset: int64(committed)},
				Event{Kind: Fetched, Client: 20, Where: t0, Text: "g", Offset: int64(committed)})
		}
	}
	events = append(events, end(int64(len(log))))
	for offset, i := range log {
		events = append(events, final(int64(offset), i.Producer(), i.Number()))
	}
	return events
}

func TestMadeUpHistories(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	broken := 0
	for n := range 300 {
		events := madeUp(r, 5+r.IntN(200))
		if _, violations := judge(events); len(violations) > 0 {
			t.Fatalf("seed %d, history %d: %v", seed, n, violations)
		}
		// Two records that have changed places, or one that is gone, must be seen, whoever looked last.
		var finals []int
		for i, e := range events {
			if e.Kind == Final {
				finals = append(finals, i)
			}
		}
		if len(finals) < 2 {
			continue
		}
		i := r.IntN(len(finals) - 1)
		a, b := &events[finals[i]], &events[finals[i+1]]
		if acks := acksOf(a.ID.Producer()); acks != Idempotent || acksOf(b.ID.Producer()) != Idempotent {
			events = slices.Delete(events, finals[i], finals[i]+1)
		} else {
			a.ID, b.ID = b.ID, a.ID
		}
		if _, violations := judge(events); len(violations) == 0 {
			t.Fatalf("seed %d, history %d: damage at offset %d was not seen", seed, n, i)
		}
		broken++
	}
	if broken < 100 {
		t.Errorf("only %d histories were damaged", broken)
	}
}

func TestRecorderWritesWhatCheckReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	r, err := NewRecorder(path)
	if err != nil {
		t.Fatal(err)
	}
	r.Add(well()...)
	r.Add(ending()...)
	select {
	case <-r.Broken():
		t.Error("broken")
	default:
	}
	r.Brokef("node %d is \"gone\"\n", 2)
	<-r.Broken()
	want, counts, err := r.Finish()
	if err != nil || len(want) != 1 {
		t.Fatal(want, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, again, err := Check(strings.NewReader(string(text)))
	if err != nil || !slices.Equal(got, want) || again != counts {
		t.Errorf("%v %+v, want %v %+v (%v)", got, again, want, counts, err)
	}
	if _, _, err := Check(strings.NewReader("0 s 1")); err == nil {
		t.Error("half a line was read")
	}
}

func FuzzParse(f *testing.F) {
	for _, e := range append(well(), ending()...) {
		f.Add(e.String())
	}
	f.Add(`1 n 0 - 0 0 0 - 0 "a \"b\"\n"`)
	f.Fuzz(func(t *testing.T, line string) {
		e, err := Parse(line)
		if err != nil {
			return
		}
		again, err := Parse(e.String())
		if err != nil || again != e {
			t.Errorf("%q: %+v, again %+v, %v", line, e, again, err)
		}
	})
}

func Example() {
	c := NewChecker()
	c.Add(&Event{Kind: Send, Where: t0, ID: numbered.New(0, 0), Acks: Idempotent})
	c.Add(&Event{Kind: Ack, Where: t0, ID: numbered.New(0, 0), Acks: Idempotent})
	c.Add(&Event{Kind: FinalEnd, Where: t0})
	for _, v := range c.Finish() {
		fmt.Println(v)
	}
	// Output:
	// short: t/0 offset 0: the partition ends at 0, producer 0 record 0 had been acknowledged
	// lost-write: t/0 offset 0: producer 0 record 0 was acknowledged, nothing is there
}
