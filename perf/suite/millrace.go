package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// prepareMillrace says how a standalone broker is started, or the nodes of a cluster.
func (s *suite) prepareMillrace(srv *server, w *workload) error {
	srv.wal = w.walBytes()
	// Three files of a third each: the budget is gone through several times within one run.
	lines := []string{fmt.Sprintf("millrace.wal.file.bytes=%d", srv.wal/3)}
	if srv.system == sysD1 {
		lines = append(lines, "log.flush.interval.messages=9223372036854775807")
	}
	admins, err := freePorts(2 * len(srv.nodes))
	if err != nil {
		return err
	}
	rafts := admins[len(srv.nodes):]
	for i, n := range srv.nodes {
		n.name, n.path, n.admin = "millrace", s.bin("millrace"), admins[i]
		config := filepath.Join(n.dir, "server.properties")
		if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(n.addr)
		if err != nil {
			return err
		}
		n.args = []string{"standalone"}
		if srv.cluster() {
			n.args = []string{"raft-cluster", "--node-id", strconv.Itoa(int(n.id)), "--raft-addr", rafts[i], "--peers", peers(rafts, i), "--bootstrap"}
		}
		n.args = append(n.args, "--config", config, "--data-dir", filepath.Join(n.dir, "data"), "--kafka-port", port,
			"--admin-addr", n.admin, "--log-level", "warn", "--wal-bytes", strconv.FormatInt(srv.wal, 10))
		if w.ring > 0 {
			n.args = append(n.args, "--ring-bytes", strconv.FormatInt(w.ring, 10))
		}
	}
	return nil
}

// peers are the cluster ports of all nodes but one, as --peers takes them.
func peers(rafts []string, without int) string {
	var list []string
	for i, addr := range rafts {
		if i != without {
			list = append(list, strconv.Itoa(i+1)+"@"+addr)
		}
	}
	return strings.Join(list, ",")
}
