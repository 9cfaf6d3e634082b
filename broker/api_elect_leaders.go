package broker

import (
	"context"
	"errors"
	"slices"

	"millrace/raft"
	"millrace/raft/controller"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The election types of ElectLeaders.
const (
	electPreferred int8 = 0
	electUnclean   int8 = 1
)

// ElectLeaders, versions 0-2 (1: unclean elections). Preferred: the first replica leads, where it is alive and in sync.
// Unclean: where nobody leads and nobody may, the live replica whose log ends last leads, at the price of what only the
// others had; that is an operator's word, and logged. Without topics it is all partitions, and only those are
// answered that wanted an election.
func (b *Broker) electLeaders(ctx context.Context, rc *requestContext, req *kmsg.ElectLeadersRequest) *kmsg.ElectLeadersResponse {
	ctx, cancel := adminDeadline(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrElectLeadersResponse()
	kind := electPreferred
	if rc.Version >= 1 {
		kind = req.ElectionType
	}
	if kind != electPreferred && kind != electUnclean {
		resp.ErrorCode = errInvalidRequest
		return resp
	}
	img := b.meta.Image()
	var wanted []*election
	if req.Topics == nil {
		for _, t := range img.SortedTopics() {
			for i := range t.Partitions {
				wanted = append(wanted, &election{topic: t.Name, index: int32(i), optional: true})
			}
		}
	}
	for i := range req.Topics {
		for _, index := range req.Topics[i].Partitions {
			wanted = append(wanted, &election{topic: req.Topics[i].Topic, index: index})
		}
	}
	if err := b.elect(ctx, img, kind, wanted); err != nil && rc.Version >= 1 {
		resp.ErrorCode = adminCode(err)
	}
	at := map[string]int{}
	for _, e := range wanted {
		code, text := answer(e.err)
		if e.optional && code == errElectionNotNeeded {
			continue
		}
		if e.unclean && e.err == nil {
			b.log.Warn("UNCLEAN election on an operator's word: acknowledged records may be lost", "topic", e.topic, "partition", e.index, "client", rc.ClientID, "host", rc.ClientHost)
		}
		i, ok := at[e.topic]
		if !ok {
			i = len(resp.Topics)
			at[e.topic] = i
			rt := kmsg.NewElectLeadersResponseTopic()
			rt.Topic = e.topic
			resp.Topics = append(resp.Topics, rt)
		}
		rp := kmsg.NewElectLeadersResponseTopicPartition()
		rp.Partition, rp.ErrorCode, rp.ErrorMessage = e.index, code, text
		resp.Topics[i].Partitions = append(resp.Topics[i].Partitions, rp)
	}
	return resp
}

// election is one partition that is to have another leader, and what came of it.
type election struct {
	topic    string
	index    int32
	optional bool // it was not asked for by name
	unclean  bool
	err      error
}

// elect works out and proposes the elections. The error is of all of them.
func (b *Broker) elect(ctx context.Context, img *raft.Image, kind int8, wanted []*election) error {
	var list []raft.Election
	var of []*election
	for _, e := range wanted {
		t := img.Topic(e.topic)
		p := t.Partition(e.index)
		if p == nil {
			e.err = faultf(errUnknownTopicOrPartition, "The topic partition does not exist.")
			continue
		}
		c := raft.Election{TopicID: t.ID, Partition: e.index, PartitionEpoch: p.PartitionEpoch, Leader: raft.NoBroker}
		if kind == electPreferred {
			c.Leader, e.err = preferred(img, p)
		} else {
			c.Unclean, e.err = mayElectUncleanly(img, p)
		}
		if e.err == nil {
			list, of = append(list, c), append(of, e)
		}
	}
	if kind == electUnclean {
		b.chooseGreatest(ctx, img, list)
	}
	for len(list) > 0 {
		n := min(len(list), proposalItemsMax)
		items, err := b.propose(ctx, raft.ElectLeaders{ControllerEpoch: img.Controller.Epoch, Partitions: list[:n]}, n)
		for i := range n {
			e := err
			if e == nil {
				e = items[i].Err()
			}
			if p := b.meta.Image().Partition(of[i].topic, of[i].index); errors.Is(e, raft.InvalidPartitionEpoch) && kind == electPreferred && p != nil && p.Leader == list[i].Leader {
				e = nil // the first proposal's answer was lost, or somebody else was faster
			}
			of[i].err, of[i].unclean = electionFault(e), list[i].Unclean
		}
		if err != nil {
			for _, e := range of[n:] {
				e.err = err
			}
			return err
		}
		list, of = list[n:], of[n:]
	}
	return nil
}

// preferred returns the replica that is to lead, or why there is no election.
func preferred(img *raft.Image, p *raft.Partition) (int32, error) {
	first := p.Replicas[0]
	switch {
	case p.Leader == first:
		return first, faultf(errElectionNotNeeded, "Leader election not needed for topic partition.")
	case !living(img, first) || !slices.Contains(p.ISR, first):
		return first, faultf(errPreferredLeaderNotAvailable, "The preferred leader was not available.")
	default:
		return first, nil
	}
}

// mayElectUncleanly tells whether an election may go outside the replicas that have everything.
func mayElectUncleanly(img *raft.Image, p *raft.Partition) (bool, error) {
	may := func(id int32) bool { return living(img, id) }
	switch {
	case p.Leader != raft.NoLeader:
		return false, faultf(errElectionNotNeeded, "Leader election not needed for topic partition.")
	case slices.ContainsFunc(p.ISR, may) || slices.ContainsFunc(p.ELR, may):
		return false, nil // a clean one is possible
	case !slices.ContainsFunc(p.Replicas, may):
		return false, faultf(errEligibleLeadersNotAvailable, "No replica of the partition is alive.")
	default:
		return true, nil
	}
}

// chooseGreatest names the replica with the greatest (leader epoch, end) where an election is unclean: it lacks the least.
func (b *Broker) chooseGreatest(ctx context.Context, img *raft.Image, list []raft.Election) {
	ask := map[int32][]logPlace{}
	for i := range list {
		if !list[i].Unclean {
			continue
		}
		for _, id := range img.TopicByID(list[i].TopicID).Partition(list[i].Partition).Replicas {
			if living(img, id) {
				ask[id] = append(ask[id], logPlace{list[i].TopicID, list[i].Partition})
			}
		}
	}
	if len(ask) == 0 {
		return
	}
	found := map[logPlace][]controller.LogEnd{}
	for id, ends := range b.askLogEnds(ctx, ask) {
		for place, e := range ends {
			e.Broker = id
			found[place] = append(found[place], e)
		}
	}
	for i := range list {
		if list[i].Unclean {
			list[i].Leader = controller.Recover(found[logPlace{list[i].TopicID, list[i].Partition}])
		}
	}
}

func electionFault(err error) error {
	switch {
	case errors.Is(err, raft.ElectionNotNeeded):
		return faultf(errElectionNotNeeded, "Leader election not needed for topic partition.")
	case errors.Is(err, raft.EligibleLeaderMissing):
		return faultf(errEligibleLeadersNotAvailable, "Eligible topic partition leaders are not available.")
	case errors.Is(err, raft.InvalidPartitionEpoch), errors.Is(err, raft.StaleControllerEpoch):
		return faultf(errConcurrentChange, "The partition or the controller changed meanwhile: try again.")
	default:
		return err
	}
}

// living tells whether a broker may lead and take new replicas.
func living(img *raft.Image, id int32) bool {
	n := img.Broker(id)
	return n != nil && !n.Fenced && !n.ShuttingDown
}
