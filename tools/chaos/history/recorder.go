package history

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Recorder writes events to a file and has them judged. It is safe for concurrent use: what one goroutine records
// before another is judged before it.
type Recorder struct {
	began time.Time

	mu      sync.Mutex
	file    *os.File
	out     *bufio.Writer
	line    []byte
	checker *Checker
	broken  chan struct{} // closed at the first violation
	err     error
}

// NewRecorder records into a new file at path; "" records nothing and only judges.
func NewRecorder(path string) (*Recorder, error) {
	r := &Recorder{began: time.Now(), checker: NewChecker(), broken: make(chan struct{}), out: bufio.NewWriter(io.Discard)}
	if path == "" {
		return r, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	r.file, r.out = f, bufio.NewWriterSize(f, 1<<20)
	return r, nil
}

// Add records events of one client, one after the other. Their time is now.
func (r *Recorder) Add(events ...Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Since(r.began)
	before := len(r.checker.violations)
	for i := range events {
		e := &events[i]
		e.At = at
		r.line = append(e.AppendTo(r.line[:0]), '\n')
		if _, err := r.out.Write(r.line); err != nil && r.err == nil {
			r.err = err
		}
		r.checker.Add(e)
	}
	if before == 0 && len(r.checker.violations) > 0 {
		close(r.broken)
	}
}

// Notef records a remark.
func (r *Recorder) Notef(format string, args ...any) {
	r.Add(Event{Kind: Note, Text: fmt.Sprintf(format, args...)})
}

// Brokef records that the run could not do what it must.
func (r *Recorder) Brokef(format string, args ...any) {
	r.Add(Event{Kind: Broken, Text: fmt.Sprintf(format, args...)})
}

// Broken is closed at the first violation.
func (r *Recorder) Broken() <-chan struct{} { return r.broken }

// Counts is what was recorded so far.
func (r *Recorder) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.checker.Counts()
}

// Finish judges the whole and closes the file.
func (r *Recorder) Finish() ([]Violation, Counts, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	violations := r.checker.Finish()
	return violations, r.checker.Counts(), r.close()
}

// Abandon closes the file and returns what was found so far, of a run that did not come to its end.
func (r *Recorder) Abandon() ([]Violation, Counts, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.checker.Violations(), r.checker.Counts(), r.close()
}

func (r *Recorder) close() error {
	err := errors.Join(r.err, r.out.Flush())
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
		r.file = nil
	}
	return err
}

// Check judges a recorded history again.
func Check(in io.Reader) ([]Violation, Counts, error) {
	c := NewChecker()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		e, err := Parse(lines.Text())
		if err != nil {
			return nil, Counts{}, fmt.Errorf("line %d: %w", n, err)
		}
		c.Add(&e)
	}
	if err := lines.Err(); err != nil {
		return nil, Counts{}, err
	}
	return c.Finish(), c.Counts(), nil
}
