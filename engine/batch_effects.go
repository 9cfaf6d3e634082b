package engine

import (
	"millrace/engine/batch"
	"millrace/engine/epoch"
	"millrace/engine/index"
	"millrace/engine/producer"
)

// applyBatch is what a batch means beside its records: leader epoch, producer,
// transaction. b holds the whole batch (looked at for markers only) and h its final header. It
// returns p, or a new state when this is the first batch with a producer id.
func applyBatch(b []byte, h *batch.Header, p *producer.State, epochs *epoch.Cache, aborted *index.Aborted) *producer.State {
	epochs.Assign(h.LeaderEpoch, h.BaseOffset)
	if !h.HasProducer() {
		return p
	}
	if p == nil {
		p = producer.New()
	}
	if !h.IsControl() {
		p.Apply(*h)
		return p
	}
	marker, coordinatorEpoch, err := batch.ParseMarker(b)
	if err != nil {
		return p // a control batch of a kind that we do not know ends no transaction
	}
	if txn, ok := p.ApplyControl(*h, marker, coordinatorEpoch); ok {
		aborted.Append(txn)
	}
	return p
}
