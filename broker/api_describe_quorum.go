package broker

import (
	"context"
	"net"
	"strconv"
	"time"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeQuorum, versions 0-2 (1: times; 2: directories and addresses): the nodes that agree on the metadata. A
// replica's log end is the raft index of its image, -1 if it does not answer; the high watermark is this broker's.
func (b *Broker) describeQuorum(ctx context.Context, _ *requestContext, req *kmsg.DescribeQuorumRequest) *kmsg.DescribeQuorumResponse {
	ctx, cancel := context.WithTimeout(ctx, quorumPatience)
	defer cancel()
	resp := kmsg.NewPtrDescribeQuorumResponse()
	members, err := b.meta.Quorum(ctx)
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = answer(err)
		return resp
	}
	img := b.meta.Image()
	for i := range req.Topics {
		rt := kmsg.NewDescribeQuorumResponseTopic()
		rt.Topic = req.Topics[i].Topic
		for j := range req.Topics[i].Partitions {
			rp := kmsg.NewDescribeQuorumResponseTopicPartition()
			rp.Partition = req.Topics[i].Partitions[j].Partition
			if rt.Topic == clusterMetadataTopic && rp.Partition == 0 {
				b.describeMembers(&rp, img, members)
			} else {
				rp.ErrorCode, rp.ErrorMessage = errUnknownTopicOrPartition, kmsg.StringPtr("This server does not host this topic-partition.")
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	for _, m := range members {
		host, text, err := net.SplitHostPort(replicaAddr(img, m.ReplicaID))
		port, bad := strconv.ParseUint(text, 10, 16)
		if err != nil || bad != nil {
			continue // alone, or never registered
		}
		n := kmsg.NewDescribeQuorumResponseNode()
		n.NodeID = m.NodeID
		l := kmsg.NewDescribeQuorumResponseNodeListener()
		l.Name, l.Host, l.Port = "CLUSTER", host, uint16(port)
		n.Listeners = append(n.Listeners, l)
		resp.Nodes = append(resp.Nodes, n)
	}
	return resp
}

// quorumPatience bounds the asking: nodes that are down do not answer.
const quorumPatience = 5 * time.Second

func (b *Broker) describeMembers(rp *kmsg.DescribeQuorumResponseTopicPartition, img *raft.Image, members []raft.QuorumReplica) {
	rp.LeaderID, rp.HighWatermark = raft.NoBroker, int64(img.Index)
	if l, ok := b.meta.Leader(); ok {
		rp.LeaderID, rp.LeaderEpoch = l.NodeID, int32(l.Term)
	}
	for _, m := range members {
		s := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		s.ReplicaID, s.LogEndOffset, s.LastFetchTimestamp, s.LastCaughtUpTimestamp = m.NodeID, -1, -1, -1
		if r := img.Replicas[m.ReplicaID]; r != nil {
			s.ReplicaDirectoryID = r.DirectoryID
		}
		if m.Reachable {
			s.LogEndOffset, s.LastFetchTimestamp = int64(m.Index), b.now().UnixMilli()
			if m.Index >= img.Index {
				s.LastCaughtUpTimestamp = s.LastFetchTimestamp
			}
		}
		if m.Voter {
			rp.CurrentVoters = append(rp.CurrentVoters, s)
		} else {
			rp.Observers = append(rp.Observers, s)
		}
	}
}

// replicaAddr is where a raft replica's cluster port is; "" if that is not known.
func replicaAddr(img *raft.Image, id uint64) string {
	if r := img.Replicas[id]; r != nil {
		return r.Addr
	}
	return ""
}
