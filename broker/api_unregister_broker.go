package broker

import (
	"context"
	"errors"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// UnregisterBroker, version 0: forgets a broker that is gone for good. It must be fenced, hold no replica, and its node
// must have been removed from the metadata's quorum before.
func (b *Broker) unregisterBroker(ctx context.Context, rc *requestContext, req *kmsg.UnregisterBrokerRequest) *kmsg.UnregisterBrokerResponse {
	ctx, cancel := adminDeadline(ctx, 0)
	defer cancel()
	resp := kmsg.NewPtrUnregisterBrokerResponse()
	err := b.forgetBroker(ctx, req.BrokerID)
	if resp.ErrorCode, resp.ErrorMessage = answer(err); err == nil {
		b.log.Info("broker forgotten", "broker", req.BrokerID, "client", rc.ClientID, "host", rc.ClientHost)
	}
	return resp
}

func (b *Broker) forgetBroker(ctx context.Context, id int32) error {
	n := b.meta.Image().Broker(id)
	if n == nil {
		return faultf(errBrokerIDNotRegistered, "Broker ID %d is not currently registered", id)
	}
	_, err := b.propose(ctx, raft.UnregisterBroker{ID: id, BrokerEpoch: n.Epoch}, 0)
	if errors.Is(err, raft.UnknownBroker) && b.meta.Image().Broker(id) == nil {
		return nil // the first proposal's answer was lost
	}
	return err
}
