package engine

import (
	"millrace/engine/batch"
	"millrace/engine/index"
)

// cleanTxns follows the transactions through the batches of a log, in order, and says which
// batches were aborted and which markers have nothing left that they end. (Kafka:
// CleanedTransactionMetadata.)
type cleanTxns struct {
	pending   []index.AbortedTxn // not begun yet, by first offset
	aborted   map[int64]bool     // by producer: in an aborted transaction; true once a batch of it was seen
	committed map[int64]bool     // by producer: a batch of a transaction was seen that will commit
}

func newCleanTxns(aborted []index.AbortedTxn) *cleanTxns {
	return &cleanTxns{pending: aborted, aborted: make(map[int64]bool), committed: make(map[int64]bool)}
}

func (t *cleanTxns) beginUpTo(offset int64) {
	for len(t.pending) > 0 && t.pending[0].FirstOffset <= offset {
		if id := t.pending[0].ProducerID; !t.aborted[id] {
			t.aborted[id] = false
		}
		t.pending = t.pending[1:]
	}
}

// data reports whether a batch that is no control batch was aborted.
func (t *cleanTxns) data(h *batch.Header) bool {
	t.beginUpTo(h.LastOffset())
	if !h.IsTransactional() {
		return false
	}
	if _, ok := t.aborted[h.ProducerID]; ok {
		t.aborted[h.ProducerID] = true
		return true
	}
	t.committed[h.ProducerID] = true
	return false
}

// control reports whether nothing that a control batch ends is left in the log, so that it
// may go when its delete horizon has passed.
func (t *cleanTxns) control(h *batch.Header, b []byte) bool {
	t.beginUpTo(h.LastOffset())
	if h.NumRecords == 0 {
		return true // emptied before
	}
	marker, _, err := batch.ParseMarker(b)
	if err != nil {
		return false
	}
	switch marker {
	case batch.Abort:
		seen := t.aborted[h.ProducerID]
		delete(t.aborted, h.ProducerID)
		return !seen
	case batch.Commit:
		seen := t.committed[h.ProducerID]
		delete(t.committed, h.ProducerID)
		return !seen
	default:
		return false
	}
}
