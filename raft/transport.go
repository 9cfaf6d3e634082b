package raft

import (
	"context"
	"errors"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"

	"millrace/raft/transport"
)

// errNoPeers is what a send on a node without cluster port fails with.
var errNoPeers = errors.New("raft: this node has no cluster port")

// replicaAddress is the permanent logical name of a replica. Dragonboat binds a directory to it, so
// it must survive every change of host name, address and port; who it is today is our transport's
// knowledge, not dragonboat's.
func replicaAddress(replicaID uint64) string { return transport.ReplicaName(replicaID) }

func parseReplicaAddress(s string) (uint64, error) { return transport.ParseReplicaName(s) }

// transportFactory makes the transport of a node without cluster port; transport.Factory is the other one.
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
