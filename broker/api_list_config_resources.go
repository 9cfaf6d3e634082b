package broker

import (
	"context"
	"slices"
	"strconv"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListConfigResources, versions 0-1 (KIP-1000, KIP-1142). Version 0 lists client
// metrics subscriptions only, of which there are none here.
func (b *Broker) listConfigResources(_ context.Context, rc *requestContext, req *kmsg.ListConfigResourcesRequest) *kmsg.ListConfigResourcesResponse {
	resp := kmsg.NewPtrListConfigResourcesResponse()
	if rc.Version == 0 {
		return resp
	}
	known := []kmsg.ConfigResourceType{
		kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger,
		kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig,
	}
	want := known
	if len(req.ResourceTypes) > 0 {
		want = nil
		for _, t := range req.ResourceTypes {
			if !slices.Contains(known, kmsg.ConfigResourceType(t)) {
				resp.ErrorCode = errUnsupportedVersion
				return resp
			}
			want = append(want, kmsg.ConfigResourceType(t))
		}
	}
	img := b.meta.Image()
	add := func(t kmsg.ConfigResourceType, name string) {
		r := kmsg.NewListConfigResourcesResponseConfigResource()
		r.Name, r.Type = name, int8(t)
		resp.ConfigResources = append(resp.ConfigResources, r)
	}
	if slices.Contains(want, kmsg.ConfigResourceTypeTopic) {
		for _, t := range img.SortedTopics() {
			add(kmsg.ConfigResourceTypeTopic, t.Name)
		}
	}
	if slices.Contains(want, kmsg.ConfigResourceTypeBroker) {
		for _, n := range img.SortedBrokers() {
			add(kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(n.ID)))
		}
	}
	if slices.Contains(want, kmsg.ConfigResourceTypeGroupConfig) {
		for _, r := range img.SortedConfigs() {
			if r.Type == raft.ConfigGroup {
				add(kmsg.ConfigResourceTypeGroupConfig, r.Name)
			}
		}
	}
	return resp
}
