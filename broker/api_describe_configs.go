package broker

import (
	"context"
	"strconv"

	"millrace/broker/config"
	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeConfigs, versions 1-4 (1: sources and synonyms; 3: types and
// documentation), for topics and brokers. A broker's name "" stands for the
// dynamic defaults of all brokers.
func (b *Broker) describeConfigs(_ context.Context, _ *requestContext, req *kmsg.DescribeConfigsRequest) *kmsg.DescribeConfigsResponse {
	resp := kmsg.NewPtrDescribeConfigsResponse()
	img := b.meta.Image()
	for i := range req.Resources {
		q := &req.Resources[i]
		r := kmsg.NewDescribeConfigsResponseResource()
		r.ResourceType, r.ResourceName = q.ResourceType, q.ResourceName
		entries, err := b.describeResource(img, q)
		r.ErrorCode, r.ErrorMessage = answer(err)
		r.Configs = make([]kmsg.DescribeConfigsResponseResourceConfig, 0, len(entries))
		for i := range entries {
			r.Configs = append(r.Configs, describedEntry(&entries[i], req))
		}
		resp.Resources = append(resp.Resources, r)
	}
	return resp
}

func (b *Broker) describeResource(img *raft.Image, q *kmsg.DescribeConfigsRequestResource) ([]config.Entry, error) {
	names := q.ConfigNames
	if len(names) == 0 {
		names = nil // old clients say "all" with an empty list
	}
	switch q.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		if f := topicNameFault(q.ResourceName); f != nil {
			return nil, f
		}
		if img.Topic(q.ResourceName) == nil {
			return nil, faultf(errUnknownTopicOrPartition, "This server does not host this topic-partition.")
		}
		return b.conf.DescribeTopic(img.TopicConfig(q.ResourceName), names), nil
	case kmsg.ConfigResourceTypeBroker:
		if q.ResourceName == "" {
			return config.DescribeDynamic(img.ClusterConfig(), config.DynamicDefaultBroker, names), nil
		}
		if f := b.ownBrokerFault(q.ResourceName); f != nil {
			return nil, f
		}
		return b.conf.DescribeBroker(names), nil
	default:
		return nil, resourceTypeFault(q.ResourceType)
	}
}

// ownBrokerFault refuses a broker resource that is not this broker.
func (b *Broker) ownBrokerFault(name string) *fault {
	if id, err := strconv.ParseInt(name, 10, 32); err != nil || int32(id) != b.nodeID {
		return faultf(errInvalidRequest, "Unexpected broker id, expected %d or empty string, but received %.60s", b.nodeID, name)
	}
	return nil
}

func resourceTypeFault(t kmsg.ConfigResourceType) *fault {
	return faultf(errInvalidRequest, "Unsupported resource type: %v. Topics and brokers have settings here.", t)
}

// describedEntry is one setting in the words of the protocol.
func describedEntry(e *config.Entry, req *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.ReadOnly = e.Name, e.Value, e.ReadOnly
	c.Source, c.IsDefault = kmsg.ConfigSource(e.Source), e.Source == config.Default
	c.ConfigType = kmsg.ConfigType(e.Type)
	if req.IncludeSynonyms {
		for _, s := range e.Synonyms {
			cs := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			cs.Name, cs.Value, cs.Source = s.Name, s.Value, kmsg.ConfigSource(s.Source)
			c.ConfigSynonyms = append(c.ConfigSynonyms, cs)
		}
	}
	if req.IncludeDocumentation {
		c.Documentation = kmsg.StringPtr(e.Doc)
	}
	return c
}
