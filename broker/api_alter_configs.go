package broker

import (
	"context"
	"slices"

	"millrace/broker/config"
	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterConfigs, versions 0-2: what the request gives a resource replaces all
// that it had. Kept for old clients; IncrementalAlterConfigs is its successor.
func (b *Broker) alterConfigs(ctx context.Context, rc *requestContext, req *kmsg.AlterConfigsRequest) *kmsg.AlterConfigsResponse {
	ctx, cancel := adminDeadline(ctx, 0)
	defer cancel()
	resp := kmsg.NewPtrAlterConfigsResponse()
	list := make([]alteration, len(req.Resources))
	for i := range req.Resources {
		q := &req.Resources[i]
		a := alteration{kind: q.ResourceType, name: q.ResourceName, replace: true}
		for j := range q.Configs {
			a.ops = append(a.ops, config.Alteration{Name: q.Configs[j].Name, Op: config.OpSet, Value: q.Configs[j].Value})
		}
		list[i] = a
	}
	b.alterResources(ctx, rc, list, req.ValidateOnly)
	for i := range list {
		r := kmsg.NewAlterConfigsResponseResource()
		r.ResourceType, r.ResourceName = list[i].kind, list[i].name
		r.ErrorCode, r.ErrorMessage = answer(list[i].err)
		resp.Resources = append(resp.Resources, r)
	}
	return resp
}

// IncrementalAlterConfigs, versions 0-1: sets and removes single settings,
// appends to and subtracts from lists. Each resource is changed as a whole or
// not at all.
func (b *Broker) incrementalAlterConfigs(ctx context.Context, rc *requestContext, req *kmsg.IncrementalAlterConfigsRequest) *kmsg.IncrementalAlterConfigsResponse {
	ctx, cancel := adminDeadline(ctx, 0)
	defer cancel()
	resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
	list := make([]alteration, len(req.Resources))
	for i := range req.Resources {
		q := &req.Resources[i]
		a := alteration{kind: q.ResourceType, name: q.ResourceName}
		for j := range q.Configs {
			c := &q.Configs[j]
			a.ops = append(a.ops, config.Alteration{Name: c.Name, Op: config.Op(c.Op), Value: c.Value})
		}
		list[i] = a
	}
	b.alterResources(ctx, rc, list, req.ValidateOnly)
	for i := range list {
		r := kmsg.NewIncrementalAlterConfigsResponseResource()
		r.ResourceType, r.ResourceName = list[i].kind, list[i].name
		r.ErrorCode, r.ErrorMessage = answer(list[i].err)
		resp.Resources = append(resp.Resources, r)
	}
	return resp
}

// alteration is what a request wants of one resource, and what came of it.
type alteration struct {
	kind    kmsg.ConfigResourceType
	name    string
	replace bool
	ops     []config.Alteration
	err     error
}

// alterResources checks and changes each resource.
func (b *Broker) alterResources(ctx context.Context, rc *requestContext, list []alteration, validateOnly bool) {
	type resource struct {
		kind kmsg.ConfigResourceType
		name string
	}
	seen := map[resource]int{}
	for i := range list {
		seen[resource{list[i].kind, list[i].name}]++
	}
	for i := range list {
		a := &list[i]
		if seen[resource{a.kind, a.name}] > 1 {
			a.err = faultf(errInvalidRequest, "Each resource must appear at most once.")
			continue
		}
		if a.err = b.alterResource(ctx, a, validateOnly); a.err == nil && !validateOnly {
			b.log.Info("settings altered", "type", a.kind, "name", a.name, "client", rc.ClientID, "host", rc.ClientHost)
		}
	}
}

// alterAttempts is how often an append or subtract is worked out again when
// somebody else changed the list meanwhile.
const alterAttempts = 5

func (b *Broker) alterResource(ctx context.Context, a *alteration, validateOnly bool) error {
	var err error
	for range alterAttempts {
		img := b.meta.Image()
		var res raft.ConfigResource
		if res, err = b.configResource(img, a); err != nil {
			return err
		}
		current := img.Config(res)
		if a.replace {
			current = nil
		}
		var c config.Change
		if res.Type == raft.ConfigTopic {
			c, err = b.conf.AlterTopic(current, a.ops)
		} else {
			c, err = b.conf.AlterBroker(current, a.ops)
		}
		if err != nil {
			return err
		}
		if validateOnly {
			return nil
		}
		var items []raft.ItemResult
		items, err = b.propose(ctx, raft.AlterConfigs{Resources: []raft.ConfigChange{{
			Resource: res, Replace: a.replace, Set: c.Set, Delete: c.Delete, Expect: c.Expect, ExpectAbsent: c.ExpectAbsent,
		}}}, 1)
		if err != nil {
			return err
		}
		if items[0].Code != raft.ConfigMismatch {
			return items[0].Err()
		}
		err = items[0].Err()
	}
	return err
}

// configResource names the resource in the metadata.
func (b *Broker) configResource(img *raft.Image, a *alteration) (raft.ConfigResource, error) {
	switch a.kind {
	case kmsg.ConfigResourceTypeTopic:
		if f := topicNameFault(a.name); f != nil {
			return raft.ConfigResource{}, f
		}
		if img.Topic(a.name) == nil {
			return raft.ConfigResource{}, faultf(errUnknownTopicOrPartition, "The topic '%s' does not exist.", a.name)
		}
		return raft.ConfigResource{Type: raft.ConfigTopic, Name: a.name}, nil
	case kmsg.ConfigResourceTypeBroker:
		if a.name != "" {
			if f := b.ownBrokerFault(a.name); f != nil {
				return raft.ConfigResource{}, f
			}
			if f := b.agreedFault(a.ops); f != nil {
				return raft.ConfigResource{}, f
			}
		}
		return raft.ConfigResource{Type: raft.ConfigBroker, Name: a.name}, nil
	default:
		return raft.ConfigResource{}, resourceTypeFault(a.kind)
	}
}

// agreedFault refuses to give one broker a value that only the cluster as a whole can have.
func (b *Broker) agreedFault(ops []config.Alteration) error {
	if b.cluster == nil {
		return nil
	}
	for i := range ops {
		if slices.Contains(agreed, ops[i].Name) && ops[i].Op != config.OpDelete {
			return faultf(errInvalidConfig, "%s is agreed on by all brokers: alter it for all of them (the default broker entity), or for topics.", ops[i].Name)
		}
	}
	return nil
}
