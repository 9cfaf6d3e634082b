package compat

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The times that a broker is given.
const (
	readyTimeout = 30 * time.Second
	endTimeout   = 20 * time.Second
)

// Broker starts the binary on a fresh directory and returns its host:port. At the end of the test it must end
// with 0 on SIGTERM.
func Broker(t testing.TB, args ...string) string {
	t.Helper()
	if running := os.Getenv("MILLRACE_COMPAT_BROKER"); running != "" {
		return running
	}
	return newServer(t, args...).addr
}

// server is one broker that a test may stop and start again, on the same port and data.
type server struct {
	t    testing.TB
	addr string
	stop func() // orderly; no-op the second time

	admin, dir string
	args       []string
}

func newServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := &server{t: t, addr: freeAddress(t), admin: freeAddress(t), dir: t.TempDir(), args: args}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *server) start() {
	t := s.t
	t.Helper()
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "broker.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), append([]string{"standalone", "--data-dir", filepath.Join(s.dir, "data"), "--kafka-port", port, "--admin-addr", s.admin}, s.args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	s.stop = sync.OnceFunc(func() { end(t, cmd, exited, log) })
	deadline := time.Now().Add(readyTimeout)
	for !ready(s.admin) {
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("the broker ended instead of starting: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the broker is not ready after %v", readyTimeout)
		}
	}
}

func end(t testing.TB, cmd *exec.Cmd, exited chan error, log *os.File) {
	t.Helper()
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended: Wait tells
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("the broker ended with %v", err)
		}
	case <-time.After(endTimeout):
		t.Errorf("the broker is still there %v after SIGTERM", endTimeout)
		_ = cmd.Process.Signal(syscall.SIGQUIT) // its stacks go to the log
		time.Sleep(time.Second)
		_ = cmd.Process.Kill()
		<-exited //nolint:errcheck // it says that the process was killed
	}
	if t.Failed() {
		text, _ := os.ReadFile(log.Name()) // nothing to show is no further failure
		t.Logf("the broker's log:\n%s", tail(text, 16<<10))
	}
	_ = log.Close()
}

func ready(admin string) bool {
	resp, err := http.Get("http://" + admin + "/readyz")
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

var buildOnce = sync.OnceValues(func() (string, error) {
	out := filepath.Join(os.TempDir(), fmt.Sprintf("millrace-compat-%d", os.Getuid()), "millrace")
	cmd := exec.Command("go", "build", "-ldflags=-checklinkname=0", "-o", out, "./tools/millrace")
	_, self, _, _ := runtime.Caller(0)
	cmd.Dir = filepath.Join(filepath.Dir(self), "../..")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, text)
	}
	return out, nil
})

// binary is the broker's binary.
func binary(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("MILLRACE_BIN"); bin != "" {
		return bin
	}
	bin, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// Run runs a program and returns its output; it fails the test if the program fails.
func Run(t testing.TB, timeout time.Duration, stdin io.Reader, dir, name string, args ...string) string {
	t.Helper()
	out, err := Try(t.Context(), timeout, stdin, dir, name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", filepath.Base(name), args, err, tail([]byte(out), 8<<10))
	}
	return out
}

// Try runs a program and returns its output, errors included.
func Try(ctx context.Context, timeout time.Duration, stdin io.Reader, dir, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdin = dir, stdin
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %v: %w", timeout, ctx.Err())
	}
	return string(out), err
}

func tail(text []byte, n int) []byte {
	if len(text) > n {
		return text[len(text)-n:]
	}
	return text
}

// Topic is a name that no other test uses.
func Topic(prefix string) string { return fmt.Sprintf("%s-%d", prefix, time.Now().UnixNano()) }

// fastGroups are flags for tests that form many groups: those with the default delay are judged by others.
var fastGroups = []string{"--config", "testdata/fast-groups.properties"}
