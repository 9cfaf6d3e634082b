package broker

import (
	"context"

	"millrace/netpoll"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// api is one row of the dispatch table. Exactly one of raw, inline and
// blocking is set.
type api struct {
	key      int16
	min, max int16
	flexible int16    // the first version with tagged fields and compact forms
	shapes   []*shape // of versions min to max, where kmsg decodes

	// raw handlers walk the bytes themselves; they own the frame.
	raw func(b *Broker, s *session, f netpoll.Frame, body []byte, version int16, corr int32)
	// inline handlers run on the connection's loop, in request order, and
	// answer by themselves, at once or later.
	inline func(b *Broker, rc *requestContext, c *call, req kmsg.Request)
	// blocking handlers run on a goroutine; requests of one connection that
	// are under way together may be worked on in any order.
	blocking func(b *Broker, ctx context.Context, rc *requestContext, req kmsg.Request) kmsg.Response
}

// onWorker makes a table entry of a blocking handler.
func onWorker[Q kmsg.Request, R kmsg.Response](h func(*Broker, context.Context, *requestContext, Q) R) func(*Broker, context.Context, *requestContext, kmsg.Request) kmsg.Response {
	return func(b *Broker, ctx context.Context, rc *requestContext, req kmsg.Request) kmsg.Response {
		return h(b, ctx, rc, req.(Q))
	}
}

// onLoop makes a table entry of an inline handler.
func onLoop[Q kmsg.Request](h func(*Broker, *requestContext, *call, Q)) func(*Broker, *requestContext, *call, kmsg.Request) {
	return func(b *Broker, rc *requestContext, c *call, req kmsg.Request) { h(b, rc, c, req.(Q)) }
}

// apis is THE table: what is not in it is neither advertised nor answered. Read
// only once it is filled.
var apis []api

// table is a function because a handler, ApiVersions, reads the table itself.
func table() []api {
	return []api{
		{key: 0, min: 3, max: 13, flexible: 9, raw: (*Broker).produce},
		{key: 1, min: 4, max: 18, flexible: 12, raw: (*Broker).fetch},
		{key: 2, min: 1, max: 11, blocking: onWorker((*Broker).listOffsets)},
		{key: 3, min: 0, max: 13, blocking: onWorker((*Broker).metadata)},
		{key: 8, min: 2, max: 10, inline: onLoop((*Broker).offsetCommit)},
		{key: 9, min: 1, max: 10, inline: onLoop((*Broker).offsetFetch)},
		{key: 10, min: 0, max: 6, blocking: onWorker((*Broker).findCoordinator)},
		{key: 11, min: 0, max: 9, inline: onLoop((*Broker).joinGroup)},
		{key: 12, min: 0, max: 4, inline: onLoop((*Broker).heartbeat)},
		{key: 13, min: 0, max: 5, inline: onLoop((*Broker).leaveGroup)},
		{key: 14, min: 0, max: 5, inline: onLoop((*Broker).syncGroup)},
		{key: 15, min: 0, max: 6, inline: onLoop((*Broker).describeGroups)},
		{key: 16, min: 0, max: 5, inline: onLoop((*Broker).listGroups)},
		{key: 18, min: 0, max: 4, inline: onLoop((*Broker).apiVersions)},
		{key: 19, min: 2, max: 7, blocking: onWorker((*Broker).createTopics)},
		{key: 20, min: 1, max: 6, blocking: onWorker((*Broker).deleteTopics)},
		{key: 21, min: 0, max: 2, blocking: onWorker((*Broker).deleteRecords)},
		{key: 22, min: 0, max: 5, blocking: onWorker((*Broker).initProducerID)},
		{key: 23, min: 2, max: 4, blocking: onWorker((*Broker).offsetForLeaderEpoch)},
		{key: 32, min: 1, max: 4, blocking: onWorker((*Broker).describeConfigs)},
		{key: 33, min: 0, max: 2, blocking: onWorker((*Broker).alterConfigs)},
		{key: 35, min: 1, max: 5, blocking: onWorker((*Broker).describeLogDirs)},
		{key: 37, min: 0, max: 3, blocking: onWorker((*Broker).createPartitions)},
		{key: 42, min: 0, max: 2, inline: onLoop((*Broker).deleteGroups)},
		{key: 43, min: 0, max: 2, blocking: onWorker((*Broker).electLeaders)},
		{key: 44, min: 0, max: 1, blocking: onWorker((*Broker).incrementalAlterConfigs)},
		{key: 45, min: 0, max: 1, blocking: onWorker((*Broker).alterPartitionReassignments)},
		{key: 46, min: 0, max: 0, blocking: onWorker((*Broker).listPartitionReassignments)},
		{key: 47, min: 0, max: 0, inline: onLoop((*Broker).offsetDelete)},
		{key: 55, min: 0, max: 2, blocking: onWorker((*Broker).describeQuorum)},
		{key: 57, min: 0, max: 2, blocking: onWorker((*Broker).updateFeatures)},
		{key: 60, min: 0, max: 2, blocking: onWorker((*Broker).describeCluster)},
		{key: 61, min: 0, max: 0, blocking: onWorker((*Broker).describeProducers)},
		{key: 64, min: 0, max: 0, blocking: onWorker((*Broker).unregisterBroker)},
		{key: 74, min: 0, max: 1, blocking: onWorker((*Broker).listConfigResources)},
		{key: 75, min: 0, max: 0, blocking: onWorker((*Broker).describeTopicPartitions)},
	}
}

// apiByKey finds a row without searching. Filled once, read only.
var apiByKey [100]*api

func init() {
	apis = table()
	for i := range apis {
		row := &apis[i]
		if row.raw == nil {
			row.flexible = firstFlexible(row.key, row.max)
			for v := row.min; v <= row.max; v++ {
				row.shapes = append(row.shapes, shapeOf(row.key, v))
			}
		}
		apiByKey[row.key] = row
	}
}

// firstFlexible asks kmsg for the first flexible version of a request.
func firstFlexible(key, last int16) int16 {
	req := kmsg.RequestForKey(key)
	for v := int16(0); v <= last; v++ {
		req.SetVersion(v)
		if req.IsFlexible() {
			return v
		}
	}
	return last + 1
}

func lookup(key int16) *api {
	if key < 0 || int(key) >= len(apiByKey) {
		return nil
	}
	return apiByKey[key]
}
