package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The times that a broker is given.
const (
	ReadyTimeout = 60 * time.Second
	EndTimeout   = 20 * time.Second // from SIGTERM to exit
)

// Process is one broker, through all its lives. Its methods are for one goroutine; Admin and LogFile do not change.
type Process struct {
	Command []string // the program and its arguments, the same in every life
	LogFile string   // where everything that it prints is appended
	Admin   string   // host:port that answers /readyz

	cmd    *exec.Cmd
	exited chan error // of the life under way
}

// Start begins a life and waits until clients are served.
func (p *Process) Start(ctx context.Context) error {
	if err := p.Launch(); err != nil {
		return err
	}
	return p.AwaitReady(ctx)
}

// Launch begins a life and does not wait.
func (p *Process) Launch() error {
	if p.cmd != nil {
		panic("BUG: a broker that lives is launched")
	}
	out, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the child has its own
	cmd := exec.Command(p.Command[0], p.Command[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	// If we die, the broker must not stay behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.exited = cmd, make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(p.cmd, p.exited)
	return nil
}

// AwaitReady waits until clients are served.
func (p *Process) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ReadyTimeout)
	defer cancel()
	for {
		if p.Ready(ctx) {
			return nil
		}
		select {
		case err := <-p.exited:
			how := p.cmd.ProcessState
			p.exited <- err
			return fmt.Errorf("the broker ended instead of starting (%v):\n%s", how, p.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("the broker is not ready after %v:\n%s", ReadyTimeout, p.LogTail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Ready asks once.
func (p *Process) Ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Admin+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection can be used again
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Alive reports an end that nobody asked for. A broker between two lives is not asked.
func (p *Process) Alive() error {
	if p.cmd == nil {
		return nil
	}
	select {
	case err := <-p.exited:
		how := p.cmd.ProcessState
		p.exited <- err
		return fmt.Errorf("the broker ended by itself (%v):\n%s", how, p.LogTail())
	default:
		return nil
	}
}

// Running reports whether a life is under way.
func (p *Process) Running() bool { return p.cmd != nil }

// Signal sends a signal to the life under way: to stop it and let it go on.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends the life with SIGKILL. Without one it does nothing.
func (p *Process) Kill() error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.exited //nolint:errcheck // it says that the process was killed
	p.cmd = nil
	return nil
}

// Terminate ends the life with SIGTERM and wants exit code 0 within seconds.
func (p *Process) Terminate() (time.Duration, error) {
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	select {
	case err := <-p.exited:
		p.cmd = nil
		if err != nil {
			return 0, fmt.Errorf("SIGTERM: the broker ended with %w:\n%s", err, p.LogTail())
		}
		return time.Since(began), nil
	case <-time.After(EndTimeout):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // which makes it print what its goroutines wait for
		time.Sleep(time.Second)
		return 0, errors.Join(fmt.Errorf("SIGTERM: the broker is still there after %v; its stacks are in %s:\n%s", EndTimeout, p.LogFile, p.LogTail()), p.Kill())
	}
}

// Memory is the peak of the resident memory of the life under way, in bytes.
func (p *Process) Memory() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// logTailBytes is how much of the broker's log an error shows.
const logTailBytes = 4 << 10

// LogTail is the end of what the broker printed.
func (p *Process) LogTail() string {
	text, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	if len(text) > logTailBytes {
		text = text[len(text)-logTailBytes:]
	}
	return string(text)
}
