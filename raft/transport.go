package raft

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
)

// MaxFrameBytes bounds one frame between raft replicas: a Replicate message may hold 64 MiB of
// entries. A receiver takes memory as bytes arrive, never ahead of them.
const MaxFrameBytes = 64<<20 + 1<<20

// errNoPeers is what a send on a node without cluster port fails with.
var errNoPeers = errors.New("raft: this node has no cluster port")

// replicaAddress is the permanent logical name of a replica. Dragonboat binds a directory to it, so
// it must survive every change of host name, address and port; who it is today is our transport's
// knowledge, not dragonboat's.
func replicaAddress(replicaID uint64) string { return "replica-" + strconv.FormatUint(replicaID, 10) }

func parseReplicaAddress(s string) (uint64, error) {
	digits, ok := strings.CutPrefix(s, "replica-")
	id, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || id == 0 || replicaAddress(id) != s {
		return 0, fmt.Errorf("raft: not the name of a replica: %q", s)
	}
	return id, nil
}

// transportFactory makes the transport of one node: the seam at which the cluster port joins.
type transportFactory struct{}

// Create opens nothing: a single voter has nobody to talk to.
func (transportFactory) Create(config.NodeHostConfig, raftio.MessageHandler, raftio.ChunkHandler) raftio.ITransport {
	return loneTransport{}
}

// Validate accepts replica names only.
func (transportFactory) Validate(address string) bool {
	_, err := parseReplicaAddress(address)
	return err == nil
}

// loneTransport is the transport of a standalone node: no port, no peers.
type loneTransport struct{}

var _ raftio.ITransport = loneTransport{}

func (loneTransport) Name() string { return "millrace-lone" }
func (loneTransport) Start() error { return nil }
func (loneTransport) Close() error { return nil }

func (loneTransport) GetConnection(context.Context, string) (raftio.IConnection, error) {
	return nil, errNoPeers
}

func (loneTransport) GetSnapshotConnection(context.Context, string) (raftio.ISnapshotConnection, error) {
	return nil, errNoPeers
}
