package broker

import (
	"context"
	"errors"
	"sync"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// producerIDBlock is how many producer ids are taken from the metadata at a
// time (Kafka: 1,000). What is left of a block at a stop is never used.
const producerIDBlock = 1000

// producerIDs hands out producer ids, each once in the life of the cluster.
type producerIDs struct {
	mu        sync.Mutex // held while a block is fetched: others wait for it anyway
	next, end int64
}

func (p *producerIDs) take(ctx context.Context, b *Broker) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == p.end {
		res, err := b.meta.Propose(ctx, raft.AllocateProducerIDs{BrokerID: b.nodeID, BrokerEpoch: b.brokerEpoch, Count: producerIDBlock})
		if err = errors.Join(err, res.Err()); err != nil {
			return 0, err
		}
		p.next, p.end = res.Value, res.Value+producerIDBlock
	}
	id := p.next
	p.next++
	return id, nil
}

// InitProducerId, versions 0-5, for idempotent producers. A producer that asks
// for more than idempotence (a transactional id) is refused: transactions are
// not there yet.
func (b *Broker) initProducerID(ctx context.Context, rc *requestContext, req *kmsg.InitProducerIDRequest) *kmsg.InitProducerIDResponse {
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		resp.ErrorCode = errUnsupportedVersion
		if *req.TransactionalID == "" {
			resp.ErrorCode = errInvalidRequest
		}
		return resp
	}
	// A known producer that asks again (KIP-360) gets a new id too, as Kafka
	// gives to producers without a transactional id.
	id, err := b.producerIDs.take(ctx, b)
	if err != nil {
		b.log.Warn("no producer ids", "client", rc.ClientID, "error", err)
		resp.ErrorCode = errCoordinatorNotAvailable
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp
}
