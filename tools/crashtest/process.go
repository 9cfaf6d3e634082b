package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The times that a broker is given.
const (
	readyTimeout = 60 * time.Second
	endTimeout   = 20 * time.Second // from SIGTERM to exit
)

// process is one broker, through all its lives.
type process struct {
	binary  string
	dir     string // of the data
	logFile string
	kafka   string // host:port, the same in every life
	admin   string
	args    []string

	cmd    *exec.Cmd
	exited chan error // of the life under way
}

func newProcess(o options, dir, data string) (*process, error) {
	kafka, err := freeAddress()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return &process{binary: o.binary, dir: data, logFile: filepath.Join(dir, "broker.log"), kafka: kafka, admin: admin, args: o.brokerArgs}, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// start begins a life and waits until clients are served.
func (p *process) start(ctx context.Context) error {
	out, err := os.OpenFile(p.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the child has its own
	_, port, err := net.SplitHostPort(p.kafka)
	if err != nil {
		return err
	}
	args := append([]string{"standalone", "--data-dir", p.dir, "--kafka-port", port, "--admin-addr", p.admin}, p.args...)
	p.cmd = exec.Command(p.binary, args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	// If we die, the broker must not stay behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(p.cmd, p.exited)
	return p.awaitReady(ctx)
}

func (p *process) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		if p.ready(ctx) {
			return nil
		}
		select {
		case err := <-p.exited:
			how := p.cmd.ProcessState
			p.exited <- err
			return fmt.Errorf("the broker ended instead of starting (%v):\n%s", how, p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("the broker is not ready after %v:\n%s", readyTimeout, p.logTail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *process) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+"/readyz", nil)
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

// alive reports an end that nobody asked for.
func (p *process) alive() error {
	select {
	case err := <-p.exited:
		how := p.cmd.ProcessState
		p.exited <- err
		return fmt.Errorf("the broker ended by itself (%v):\n%s", how, p.logTail())
	default:
		return nil
	}
}

// kill ends the life with SIGKILL.
func (p *process) kill() error {
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

// terminate ends the life with SIGTERM and wants exit code 0 within seconds.
func (p *process) terminate() (time.Duration, error) {
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	select {
	case err := <-p.exited:
		p.cmd = nil
		if err != nil {
			return 0, fmt.Errorf("SIGTERM: the broker ended with %w:\n%s", err, p.logTail())
		}
		return time.Since(began), nil
	case <-time.After(endTimeout):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // which makes it print what its goroutines wait for
		time.Sleep(time.Second)
		return 0, errors.Join(fmt.Errorf("SIGTERM: the broker is still there after %v; its stacks are in %s:\n%s", endTimeout, p.logFile, p.logTail()), p.kill())
	}
}

// memory is the peak of the resident memory of the life under way, in bytes.
func (p *process) memory() int64 {
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

func (p *process) logTail() string {
	text, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	if len(text) > logTailBytes {
		text = text[len(text)-logTailBytes:]
	}
	return string(text)
}
