package broker

import (
	"context"
	"path/filepath"
	"slices"

	"millrace/broker/replica"
	"millrace/engine/disk"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeLogDirs, versions 1-5 (3: top-level error; 4: space of the volume; 5:
// cordoned directories, of which there are none). There is one data directory.
// Sizes are what the partitions' records take, wherever they are at the moment.
func (b *Broker) describeLogDirs(_ context.Context, _ *requestContext, req *kmsg.DescribeLogDirsRequest) *kmsg.DescribeLogDirsResponse {
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = b.opts.DataDir
	if abs, err := filepath.Abs(dir.Dir); err == nil {
		dir.Dir = abs
	}
	if free, total, err := disk.OS().Statfs(b.opts.DataDir); err == nil {
		dir.TotalBytes, dir.UsableBytes = total, free
	} else {
		dir.ErrorCode = errKafkaStorage
	}
	add := func(t *replica.Topic, want func(int32) bool) {
		r := kmsg.NewDescribeLogDirsResponseDirTopic()
		r.Topic = t.Name
		for _, p := range t.Partitions() {
			if p == nil || !want(p.Index) {
				continue
			}
			rp := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
			rp.Partition, rp.Size = p.Index, p.Log().SizeBytes()
			rp.OffsetLag = max(p.HighWatermark()-p.Log().AppendedEnd(), 0)
			r.Partitions = append(r.Partitions, rp)
		}
		if len(r.Partitions) > 0 {
			dir.Topics = append(dir.Topics, r)
		}
	}
	if req.Topics == nil {
		for _, t := range b.partitions.Topics() {
			add(t, func(int32) bool { return true })
		}
	}
	for i := range req.Topics {
		q := &req.Topics[i]
		if t := b.partitions.Topic(q.Topic); t != nil {
			add(t, func(p int32) bool { return slices.Contains(q.Partitions, p) })
		}
	}
	resp.Dirs = append(resp.Dirs, dir)
	return resp
}
