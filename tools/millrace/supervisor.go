package main

import (
	"log/slog"
	"net"
	"os"
)

// notifySupervisor tells systemd (Type=notify) about a change of state; without it, it does nothing.
// The protocol is sd_notify(3): one datagram to the socket that the environment names.
func notifySupervisor(log *slog.Logger, state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	if name[0] == '@' { // an abstract socket
		name = "\x00" + name[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		_ = conn.Close() // a datagram socket has nothing left to flush
	}
	if err != nil {
		log.Warn("cannot reach the supervisor's socket", "state", state, "error", err)
	}
}
