package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListPartitionReassignments, version 0. Replicas cannot be moved yet, so none
// is being moved: kafka-topics --describe asks. AlterPartitionReassignments is
// not advertised.
func (b *Broker) listPartitionReassignments(context.Context, *requestContext, *kmsg.ListPartitionReassignmentsRequest) *kmsg.ListPartitionReassignmentsResponse {
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	resp.Topics = []kmsg.ListPartitionReassignmentsResponseTopic{}
	return resp
}
