package config

// millraceSettings are Millrace's own settings. All are read at start.
var millraceSettings = []Setting{
	{
		Name: "millrace.admin.address", Type: String, Default: "127.0.0.1:9644",
		Doc: "Address of the admin HTTP server (/metrics, /healthz, /readyz, /cluster, /debug/pprof). \"off\": none. It has no authentication.",
	},
	{
		Name: "millrace.cluster.address", Type: String, Default: "127.0.0.1:9192",
		Doc: "Address of the cluster port, host:port: metadata, heartbeats and replication between the nodes. Only raft-cluster opens it.",
	},
	{
		Name: "millrace.cluster.advertised.address", Type: String, Unset: true,
		Doc: "Where the other nodes reach the cluster port, host:port. Default: millrace.cluster.address; where that is every address, its port at the host that clients are told, or at the host name.",
	},
	{
		Name: "millrace.cluster.peers", Type: String, Unset: true,
		Doc: "The other nodes as ID@HOST:PORT, separated by commas: all first ones for --bootstrap, some members for --join, later only hints.",
	},
	{
		Name: "millrace.cluster.secret.file", Type: String, Unset: true,
		Doc: "File with the secret that the nodes prove to each other on the cluster port. It must not be readable by everyone.",
	},
	{
		Name: "millrace.cluster.tls.ca.file", Type: String, Unset: true,
		Doc: "PEM file of the CA that signs the nodes' certificates, and nothing else's: who holds one of them is a node.",
	},
	{
		Name: "millrace.cluster.tls.certificate.file", Type: String, Unset: true,
		Doc: "PEM file of this node's certificate on the cluster port. Certificate, key and CA belong together: mutual TLS.",
	},
	{
		Name: "millrace.cluster.tls.key.file", Type: String, Unset: true,
		Doc: "PEM file of the certificate's key.",
	},
	{
		Name: "millrace.commit.max.bytes", Type: Int, Default: "4194304", Valid: blocks(16<<10, 16<<20),
		Doc: "The most bytes of one commit of the write-ahead log. The largest batch that a topic takes (max.message.bytes) must fit into one. The ring holds at least four.",
	},
	{
		Name: "millrace.connection.memory.bytes", Type: Long, Default: "0", Valid: atLeast(0),
		Doc: "Memory for the requests and answers of one connection; above it nothing more is read from it. 0: enough for one request of socket.request.max.bytes.",
	},
	{
		Name: "millrace.frame.timeout.ms", Type: Long, Default: "30000", Valid: atLeast(1),
		Doc: "A connection that stops in the middle of a request for this long is closed.",
	},
	{
		Name: "millrace.io", Type: String, Default: "auto", Valid: oneOf("auto", "uring", "pwrite"),
		Doc: "How the write-ahead log is written: by io_uring (uring), by pwritev2 on a worker thread (pwrite), or the first where the kernel allows it (auto).",
	},
	{
		Name: "millrace.log.format", Type: String, Default: "text", Valid: oneOf("text", "json"),
		Doc: "Form of the process's own log lines.",
	},
	{
		Name: "millrace.log.level", Type: String, Default: "info", Valid: oneOf("debug", "info", "warn", "error"),
		Doc: "Which of the process's own log lines are written.",
	},
	{
		Name: "millrace.max.inflight.requests.per.connection", Type: Int, Default: "0", Valid: atLeast(0),
		Doc: "Requests of one connection that are worked on at a time; above it nothing more is read from it. 0: the network layer's choice.",
	},
	{
		Name: "millrace.network.memory.bytes", Type: Long, Default: "0", Valid: atLeast(0),
		Doc: "Memory for requests and answers over all connections; above it nothing more is read. 0: 9/8 of socket.request.max.bytes, at least 64 MiB.",
	},
	{
		Name: "millrace.shards", Type: Int, Default: "0", Valid: between(0, 256),
		Doc: "Write-ahead logs, each with a ring and a thread of its own; new partitions are spread over them. 0: one for every four cores, from 1 to 16.",
	},
	{
		Name: "millrace.shutdown.timeout.ms", Type: Long, Default: "30000", Valid: atLeast(0),
		Doc: "How long an orderly end may take before the process ends anyway. What was acknowledged is on the device in any case.",
	},
	{
		Name: "millrace.tail.ring.bytes", Type: Long, Default: "0", Valid: sizeOrZero(64 << 10),
		Doc: "Memory that holds the newest records of all partitions, over all shards: commits are built in it and consumers at the tail are served from it. 0: 1/32 of the machine's memory, from 64 MiB to 8 GiB.",
	},
	{
		Name: "millrace.wal.bytes", Type: Long, Default: "0", Valid: sizeOrZero(256 << 10),
		Doc: "Disk space of the write-ahead log, over all shards. It bounds what a restart has to read. 0: 1 GiB, but at most 1/16 of the disk, and at least 64 MiB.",
	},
	{
		Name: "millrace.wal.file.bytes", Type: Long, Default: "0", Valid: sizeOrZero(64 << 10),
		Doc: "Size of one file of the write-ahead log; a shard has at least three. 0: a quarter of the shard's space, up to 64 MiB.",
	},
}
