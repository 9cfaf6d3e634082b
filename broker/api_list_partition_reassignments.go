package broker

import (
	"context"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListPartitionReassignments, version 0: what is being moved, of the partitions named or of all.
func (b *Broker) listPartitionReassignments(_ context.Context, _ *requestContext, req *kmsg.ListPartitionReassignmentsRequest) *kmsg.ListPartitionReassignmentsResponse {
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	resp.Topics = []kmsg.ListPartitionReassignmentsResponseTopic{}
	img := b.meta.Image()
	if req.Topics == nil {
		for _, t := range img.SortedTopics() {
			all := make([]int32, len(t.Partitions))
			for i := range all {
				all[i] = int32(i)
			}
			listReassignments(resp, t, all)
		}
	}
	for i := range req.Topics {
		if t := img.Topic(req.Topics[i].Topic); t != nil {
			listReassignments(resp, t, req.Topics[i].Partitions)
		}
	}
	return resp
}

func listReassignments(resp *kmsg.ListPartitionReassignmentsResponse, t *raft.Topic, partitions []int32) {
	rt := kmsg.NewListPartitionReassignmentsResponseTopic()
	rt.Topic = t.Name
	for _, index := range partitions {
		p := t.Partition(index)
		if p == nil || !p.Reassigning() {
			continue
		}
		rp := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
		rp.Partition, rp.Replicas, rp.AddingReplicas, rp.RemovingReplicas = index, p.Replicas, p.Adding, p.Removing
		rt.Partitions = append(rt.Partitions, rp)
	}
	if len(rt.Partitions) > 0 {
		resp.Topics = append(resp.Topics, rt)
	}
}
