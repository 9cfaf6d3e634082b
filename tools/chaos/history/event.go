package history

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"millrace/tools/numbered"
)

// Kind says what happened.
type Kind byte

// The kinds. What an event uses beside At, Client and Kind is in brackets; Where is a partition of Event.Topic.
const (
	Send     Kind = 's' // a producer hands a record over [Where, ID, Op: the batch, Acks]
	Ack      Kind = 'a' // it is acknowledged [Where, ID, Op, Acks, Offset]
	Fail     Kind = 'f' // nobody knows what became of it [Where, ID, Op, Acks, Text]
	Poll     Kind = 'p' // a consumer is shown a record [Where, ID, Op: the poll, Offset, Epoch]
	Corrupt  Kind = 'x' // it is shown bytes that nobody wrote [Where, Offset, Text]
	Assign   Kind = 'g' // a consumer was given a partition anew: it may go back [Where, Text: the group]
	List     Kind = 'l' // a client is told the newest offset [Where, Offset]
	Commit   Kind = 'c' // a commit is acknowledged [Where, Offset, Text: the group]
	Fetched  Kind = 'o' // a committed offset is read back, after every Commit of this client [Where, Offset, Text]
	Leader   Kind = 'e' // a broker names a leader [Where, Epoch, Op: the leader's node]
	Lost     Kind = 'd' // a client is told that data that it read is gone [Where, Offset, Text]
	Begin    Kind = '(' // a fault begins [Op: its number, Text]
	End      Kind = ')' // it is taken back and its node serves [Op, Text]
	Note     Kind = 'n' // for the reader of the history [Text]
	Broken   Kind = '!' // the run could not do what it must [Text]
	Differ   Kind = '=' // replicas differ, or a directory is not sound [Text]
	Final    Kind = 'F' // the last reader is shown a record [as Poll]
	FinalEnd Kind = 'E' // the last reader is told where a partition ends [Where, Offset]
)

// Acks is what a producer waits for.
type Acks byte

// A producer waits for one replica or for all; only one that is idempotent promises order and no record twice.
const (
	One        Acks = '1'
	All        Acks = 'A'
	Idempotent Acks = 'I'
)

// Where is one partition.
type Where struct {
	Topic     string
	Partition int32
}

func (w Where) String() string { return fmt.Sprintf("%s/%d", w.Topic, w.Partition) }

// Event is one thing that a client knows.
type Event struct {
	At     time.Duration // since the run began, by one monotonic clock
	Kind   Kind
	Client int32
	Where  Where
	Offset int64
	Epoch  int32
	Op     int64
	Acks   Acks
	ID     numbered.ID
	Text   string
}

// AppendTo appends the event as one line, without its end. Topics hold no spaces.
func (e *Event) AppendTo(b []byte) []byte {
	b = strconv.AppendInt(b, int64(e.At), 10)
	b = append(b, ' ', byte(e.Kind), ' ')
	b = strconv.AppendInt(b, int64(e.Client), 10)
	b = append(b, ' ')
	if e.Where.Topic == "" {
		b = append(b, '-')
	} else {
		b = append(b, e.Where.Topic...)
		b = append(b, '/')
		b = strconv.AppendInt(b, int64(e.Where.Partition), 10)
	}
	b = append(b, ' ')
	b = strconv.AppendInt(b, e.Offset, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(e.Epoch), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, e.Op, 10)
	b = append(b, ' ')
	if e.Acks == 0 {
		b = append(b, '-')
	} else {
		b = append(b, byte(e.Acks))
	}
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(e.ID), 16)
	if e.Text != "" {
		b = append(b, ' ')
		b = strconv.AppendQuote(b, e.Text)
	}
	return b
}

func (e *Event) String() string { return string(e.AppendTo(nil)) }

var errEvent = errors.New("history: not an event")

// Parse reads a line of AppendTo.
func Parse(line string) (Event, error) {
	var e Event
	f := strings.SplitN(line, " ", 10)
	if len(f) < 9 || len(f[1]) != 1 || len(f[7]) != 1 {
		return e, fmt.Errorf("%w: %q", errEvent, line)
	}
	var errs [6]error
	var at, client, epoch int64
	var id uint64
	at, errs[0] = strconv.ParseInt(f[0], 10, 64)
	client, errs[1] = strconv.ParseInt(f[2], 10, 32)
	e.Offset, errs[2] = strconv.ParseInt(f[4], 10, 64)
	epoch, errs[3] = strconv.ParseInt(f[5], 10, 32)
	e.Op, errs[4] = strconv.ParseInt(f[6], 10, 64)
	id, errs[5] = strconv.ParseUint(f[8], 16, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return e, fmt.Errorf("%w: %q: %w", errEvent, line, err)
	}
	e.At, e.Kind, e.Client, e.Epoch, e.ID = time.Duration(at), Kind(f[1][0]), int32(client), int32(epoch), numbered.ID(id)
	if f[7] != "-" {
		e.Acks = Acks(f[7][0])
	}
	if f[3] != "-" {
		i := strings.LastIndexByte(f[3], '/')
		if i <= 0 {
			return e, fmt.Errorf("%w: partition %q", errEvent, f[3])
		}
		p, err := strconv.ParseInt(f[3][i+1:], 10, 32)
		if err != nil {
			return e, fmt.Errorf("%w: partition %q", errEvent, f[3])
		}
		e.Where = Where{f[3][:i], int32(p)}
	}
	if len(f) == 10 {
		text, err := strconv.Unquote(f[9])
		if err != nil {
			return e, fmt.Errorf("%w: text %q", errEvent, f[9])
		}
		e.Text = text
	}
	return e, nil
}
