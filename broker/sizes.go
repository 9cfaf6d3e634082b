package broker

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"

	"millrace/broker/config"
	"millrace/engine"
	"millrace/engine/disk"
	"millrace/netpoll"
)

// machine is what the sizes that nobody set depend on.
func machine(dir string) (config.Machine, error) {
	m := config.Machine{Cores: runtime.NumCPU(), MemoryBytes: 4 << 30}
	var si syscall.Sysinfo_t
	if err := syscall.Sysinfo(&si); err == nil {
		m.MemoryBytes = int64(si.Totalram) * int64(si.Unit)
	}
	fs := disk.OS()
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return m, err
	}
	_, total, err := fs.Statfs(dir)
	if err != nil {
		return m, err
	}
	m.DiskBytes = total
	return m, nil
}

// fetchPartsMax is how many partitions all waiting Fetch requests together, and all
// fetch sessions together, may have: each of the two takes a 32nd of the memory then.
func fetchPartsMax(m config.Machine) int64 {
	const each = 256 // bytes
	return max(m.MemoryBytes/32, 64<<20) / each
}

func (b *Broker) engineOptions(s config.Sizes) (engine.Options, error) {
	io := b.opts.IO
	if io == "" {
		io = b.conf.IO()
	}
	mode, err := disk.ParseMode(io)
	if err != nil {
		return engine.Options{}, err
	}
	o := engine.Options{
		Dir: b.opts.DataDir, FS: disk.OS(), IO: mode, Shards: s.Shards,
		WALBytes: s.WALBytes, WALFileBytes: s.WALFileBytes, RingBytes: s.RingBytes, CommitBytesMax: s.CommitBytesMax,
		NodeID: b.nodeID, Now: b.now, OnFailed: b.fail, OnCommit: func(*engine.Shard) { b.flushReplication() },
		Warn: func(format string, args ...any) { b.log.Warn(fmt.Sprintf(format, args...)) },
	}
	if b.opts.Shards > 0 {
		o.Shards = b.opts.Shards
	}
	if b.opts.engine != nil {
		b.opts.engine(&o)
	}
	return o, nil
}

func (b *Broker) netOptions(s config.Sizes) netpoll.Options {
	c := b.conf
	return netpoll.Options{
		Loops:         c.NetworkThreads(),
		MaxFrameBytes: c.SocketRequestMaxBytes(), MaxInflight: c.MaxInflightRequests(),
		MaxConns: c.MaxConnections(), MaxConnsPerIP: c.MaxConnectionsPerIP(),
		ConnMemory: c.ConnectionMemoryBytes(), TotalMemory: s.NetworkMemoryBytes,
		IdleTimeout: c.ConnectionsMaxIdle(), FrameTimeout: c.FrameTimeout(),
	}
}

var errNoEndpoint = errors.New("listening on every address: --advertised-addr must say which one clients use")
