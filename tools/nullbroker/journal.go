package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"millrace/engine/disk"
	"millrace/netpoll"
)

// journal is one loop's file: what comes in a turn is written at its end, in one
// durable write, and answered when that is complete. One write is in flight at a time. It belongs to its loop.
type journal struct {
	file  disk.File
	queue disk.Queue
	how   string
	size  int64
	pos   int64

	filling, flying group
	inFlight        bool
	broken          error
	done            []disk.Completion
	writes          int64
}

// group is what shares a write.
type group struct {
	data    []byte // aligned; its capacity is kept
	answers []answer
}

type answer struct {
	conn *netpoll.Conn
	slot netpoll.Slot
	resp *netpoll.Response
}

func openJournal(o options, index int) (*journal, error) {
	mode, err := disk.ParseMode(o.io)
	if err != nil {
		return nil, err
	}
	j := &journal{size: disk.AlignDown(o.fileBytes)}
	if j.size < 1<<20 {
		return nil, fmt.Errorf("--file-bytes %d: at least 1 MiB is needed", o.fileBytes)
	}
	name := filepath.Join(o.dir, fmt.Sprintf("nullbroker-%d-%d", os.Getpid(), index))
	if j.file, err = disk.OS().OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|disk.Direct, 0o600); err != nil {
		return nil, err
	}
	// The open file is all that is needed: no crash leaves it behind.
	if err := disk.OS().Remove(name); err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	zeros := disk.AlignedAlloc(1 << 20)
	for pos := int64(0); pos < j.size; pos += int64(len(zeros)) {
		if _, err := j.file.WriteAt(zeros[:min(int64(len(zeros)), j.size-pos)], pos); err != nil {
			return nil, errors.Join(fmt.Errorf("write %s: %w", name, err), j.file.Close())
		}
	}
	if err := j.file.Fdatasync(); err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	var warning string
	if j.queue, warning, err = disk.NewQueue(mode, 4); err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	if warning != "" {
		fmt.Fprintln(os.Stderr, "nullbroker:", warning)
	}
	j.how = disk.BackendOf(j.queue)
	return j, nil
}

// add copies a batch into the next write.
func (j *journal) add(b []byte) {
	g := &j.filling
	if need := len(g.data) + len(b); need > cap(g.data) {
		wider := disk.AlignedAlloc(max(1<<20, disk.AlignUp(need), 2*cap(g.data)))
		g.data = wider[:copy(wider, g.data)]
	}
	g.data = append(g.data, b...)
}

// reply answers once everything added so far is durable.
func (j *journal) reply(c *netpoll.Conn, s netpoll.Slot, r *netpoll.Response) {
	j.filling.answers = append(j.filling.answers, answer{c, s, r})
}

// poll takes the completion of the write in flight and starts the next one. It is called at the
// end of every turn.
func (j *journal) poll() {
	if j.inFlight {
		j.done = j.queue.Reap(j.done[:0])
		for _, d := range j.done {
			j.inFlight = false
			if d.Err != nil {
				j.broken = d.Err
			}
			j.finish()
		}
	}
	if !j.inFlight && len(j.filling.answers) > 0 {
		j.submit()
	}
}

func (j *journal) submit() {
	j.filling, j.flying = j.flying, j.filling
	g := &j.flying
	n := disk.AlignUp(max(len(g.data), 1))
	if int64(n) > j.size {
		j.broken = fmt.Errorf("a turn of %d bytes does not fit the file", n)
	}
	if cap(g.data) < n {
		wider := disk.AlignedAlloc(n) // no batch at all: any block will do
		g.data = wider[:copy(wider, g.data)]
	}
	if j.pos+int64(n) > j.size {
		j.pos = 0
	}
	if j.broken == nil {
		j.broken = errors.Join(j.queue.Write(j.file, g.data[:n:n], j.pos, true, 1), j.queue.Submit())
	}
	if j.broken != nil {
		j.finish()
		return
	}
	j.pos += int64(n)
	j.writes++
	j.inFlight = true
}

// finish answers what was written.
func (j *journal) finish() {
	g := &j.flying
	for i := range g.answers {
		a := &g.answers[i]
		if j.broken != nil {
			a.resp.Drop()
			a.conn.Close(j.broken)
		} else {
			a.conn.Reply(a.slot, a.resp)
		}
		*a = answer{}
	}
	g.answers, g.data = g.answers[:0], g.data[:0]
}

// close is called once the loop has ended.
func (j *journal) close() {
	_ = j.queue.Close()
	_ = j.file.Close()
}
