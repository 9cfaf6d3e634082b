package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is a program that was started and has to be ended.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
	err  error         // of its end; after done
	tail tailBuffer    // the last that it said
}

// starter starts processes on one thread that lives as long as the suite: the kernel ends them with that thread,
// even if the suite is killed.
var starter = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// launch starts a program; out gets its output and may be nil.
func launch(ctx context.Context, name string, out io.Writer, path string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stderr, p.cmd.Stdout = &p.tail, &p.tail
	if out != nil {
		p.cmd.Stdout = out
	}
	return p, p.start(ctx)
}

// launchWatched starts a program and calls watch for every line of its error output.
func launchWatched(ctx context.Context, name string, watch func(string), path string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.tail, io.MultiWriter(&p.tail, &lines{f: watch})
	return p, p.start(ctx)
}

func (p *process) start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // Ctrl-C is for the suite alone
	started := make(chan error)
	starter() <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// wait waits for the end; when ctx ends before that, it stops the process.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		p.stop(2 * time.Second)
		return ctx.Err()
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w: %s", p.name, p.err, p.tail.text())
	}
	return nil
}

// stop asks the process to end, and ends it if it does not.
func (p *process) stop(patience time.Duration) {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-p.done:
		return
	case <-time.After(patience):
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

// interrupt asks the process to end and does not wait for it.
func (p *process) interrupt() { _ = p.cmd.Process.Signal(syscall.SIGTERM) }

// kill ends the process at once, as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only if it has ended
	<-p.done
}

// alive reports whether the process still runs.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu   sync.Mutex
	data []byte
}

const tailMax = 4 << 10

func (t *tailBuffer) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, b...)
	if over := len(t.data) - tailMax; over > 0 {
		t.data = t.data[over:]
	}
	return len(b), nil
}

func (t *tailBuffer) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.data))
}

// output runs a program to its end and returns what it printed.
func output(ctx context.Context, path string, args ...string) (string, error) {
	var out bytes.Buffer
	p, err := launch(ctx, path, &out, path, args...)
	if err == nil {
		err = p.wait(ctx)
	}
	return out.String(), err
}

// scratch makes a directory for one server; the suite removes it.
func scratch(base string) (string, error) { return os.MkdirTemp(base, "perf-*") }

var errEnded = errors.New("it ended")

// launchLimits starts a program whose output is kept and whose error output is shown.
func launchLimits(ctx context.Context, out io.Writer, show func(string), path string, args ...string) (*process, error) {
	p := &process{name: "limits", cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, io.MultiWriter(&p.tail, &lines{f: show})
	return p, p.start(ctx)
}
