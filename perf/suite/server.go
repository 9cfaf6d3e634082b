package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The systems that a row can run on.
const (
	sysD2        = "D2"   // Millrace, acknowledging what has been flushed: its default
	sysD1        = "D1"   // Millrace, acknowledging what has been written
	sysNull      = "null" // parses and forgets
	sysNullFlush = "null+flush"
	sysKafka1    = "K1" // Apache Kafka as it comes: it flushes nothing
	sysKafka2    = "K2" // Apache Kafka, log.flush.interval.messages=1
)

// server is a broker under test.
type server struct {
	system string
	proc   *process
	addr   string
	admin  string // Millrace only
	dir    string
	wal    int64
}

const readyTimeout = 30 * time.Second

// freePort is a port that nobody listens on at the moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }() // it only finds a free port
	return l.Addr().(*net.TCPAddr).Port, nil
}

// serve starts a system on a fresh directory and waits until it serves.
func (s *suite) serve(ctx context.Context, system string, w *workload) (*server, error) {
	dir, err := scratch(s.dataBase(w))
	if err != nil {
		return nil, err
	}
	srv := &server{system: system, dir: dir}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	srv.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	switch system {
	case sysD1, sysD2:
		err = s.startMillrace(ctx, srv, w, port)
	case sysNull, sysNullFlush:
		args := []string{"--addr", srv.addr, "--dir", dir}
		if system == sysNullFlush {
			args = append(args, "--flush", "--file-bytes", strconv.Itoa(64<<20))
		}
		srv.proc, err = launch(ctx, "null broker", nil, s.bin("nullbroker"), args...)
	case sysKafka1, sysKafka2:
		err = s.startKafka(ctx, srv, port)
	default:
		err = fmt.Errorf("BUG: system %q", system)
	}
	if err == nil {
		err = srv.ready(ctx)
	}
	if err != nil {
		srv.close()
		return nil, fmt.Errorf("start %s: %w", system, err)
	}
	return srv, nil
}

func (s *suite) startMillrace(ctx context.Context, srv *server, w *workload, port int) error {
	admin, err := freePort()
	if err != nil {
		return err
	}
	srv.admin = net.JoinHostPort("127.0.0.1", strconv.Itoa(admin))
	srv.wal = w.walBytes()
	// Three files of a third each: the budget is gone through several times within one run.
	lines := []string{fmt.Sprintf("millrace.wal.file.bytes=%d", srv.wal/3)}
	if srv.system == sysD1 {
		lines = append(lines, "log.flush.interval.messages=9223372036854775807")
	}
	config := filepath.Join(srv.dir, "server.properties")
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	args := []string{
		"standalone", "--config", config, "--data-dir", filepath.Join(srv.dir, "data"), "--kafka-port", strconv.Itoa(port),
		"--admin-addr", srv.admin, "--log-level", "warn", "--wal-bytes", strconv.FormatInt(srv.wal, 10),
	}
	if w.ring > 0 {
		args = append(args, "--ring-bytes", strconv.FormatInt(w.ring, 10))
	}
	srv.proc, err = launch(ctx, "millrace", nil, s.bin("millrace"), args...)
	return err
}

// ready waits until the server answers.
func (srv *server) ready(ctx context.Context) error {
	deadline := time.Now().Add(readyTimeout)
	for time.Now().Before(deadline) {
		if !srv.proc.alive() {
			return fmt.Errorf("%w: %s", errEnded, srv.proc.tail.text())
		}
		if err := srv.probe(); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(30 * time.Millisecond):
		}
	}
	return fmt.Errorf("not ready after %v: %s", readyTimeout, srv.proc.tail.text())
}

func (srv *server) probe() error {
	if srv.admin != "" {
		resp, err := http.Get("http://" + srv.admin + "/readyz")
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	}
	c, err := net.DialTimeout("tcp", srv.addr, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err
}

// get reads a page of the admin server.
func (srv *server) get(path string, timeout time.Duration) ([]byte, error) {
	client := http.Client{Timeout: timeout}
	resp, err := client.Get("http://" + srv.admin + path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// close ends the server and removes its data.
func (srv *server) close() {
	srv.proc.stop(10 * time.Second)
	_ = os.RemoveAll(srv.dir) // what is left is in a temporary directory
}
