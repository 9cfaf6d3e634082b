package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ask sends a request to one node as it is.
func ask[R kmsg.Response](t testing.TB, c *kgo.Client, req kmsg.Request) R {
	t.Helper()
	resp, err := direct(c).RetriableRequest(testContext(t), req)
	if err != nil {
		t.Fatalf("%s: %v", kmsg.NameForKey(req.Key()), err)
	}
	return resp.(R)
}

// on is a topic with one partition on these brokers.
func on(name string, replicas ...int32) kmsg.CreateTopicsRequestTopic {
	q := newTopicRequest(name, -1, -1)
	a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
	a.Replicas = replicas
	q.ReplicaAssignment = append(q.ReplicaAssignment, a)
	return q
}

func (f *fleet) create(id int32, topics ...kmsg.CreateTopicsRequestTopic) {
	f.t.Helper()
	for _, r := range ask[*kmsg.CreateTopicsResponse](f.t, f.client(id), createRequest(topics...)).Topics {
		if r.ErrorCode != 0 {
			f.t.Fatalf("create %s: %v: %s", r.Topic, kerr.ErrorForCode(r.ErrorCode), *r.ErrorMessage)
		}
	}
}

func elect(kind int8, topic string) *kmsg.ElectLeadersRequest {
	req := kmsg.NewPtrElectLeadersRequest()
	req.ElectionType, req.TimeoutMillis = kind, 10_000
	rt := kmsg.NewElectLeadersRequestTopic()
	rt.Topic, rt.Partitions = topic, []int32{0}
	req.Topics = append(req.Topics, rt)
	return req
}

func reassign(topic string, replicas []int32, anyFactor bool) *kmsg.AlterPartitionAssignmentsRequest {
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.TimeoutMillis, req.AllowReplicationFactorChange = 10_000, anyFactor
	rt := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	rp.Replicas = replicas
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func setBrokerConfig(broker, name, value string) *kmsg.IncrementalAlterConfigsRequest {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	rr := kmsg.NewIncrementalAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeBroker, broker
	rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	rc.Name, rc.Value = name, kmsg.StringPtr(value)
	rr.Configs = append(rr.Configs, rc)
	req.Resources = append(req.Resources, rr)
	return req
}

func TestAdminRequestsThroughEveryBroker(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	inRack := func(o *Options) {
		bootstrap(o)
		o.Config = fleetConfig(t, "broker.rack", fmt.Sprint("rack-", o.NodeID))
	}
	f.start(inRack, 1, 2, 3)
	producers := map[int64]bool{}
	var coordinator *kmsg.FindCoordinatorResponse
	for _, id := range []int32{1, 2, 3} {
		c := f.client(id)
		name := fmt.Sprint("t", id)
		f.create(id, newTopicRequest(name, 4, 2))
		big := ask[*kmsg.CreateTopicsResponse](t, c, createRequest(newTopicRequest("big", 1, 4))).Topics[0]
		wantCode(t, "four replicas", big.ErrorCode, kerr.InvalidReplicationFactor)
		if big.ErrorMessage == nil || !strings.Contains(*big.ErrorMessage, "cannot be reached because only 3 broker(s) are registered") {
			t.Errorf("four replicas: %v", big.ErrorMessage)
		}
		img := f.agree(1, 2, 3)

		d := kmsg.NewPtrDescribeClusterRequest()
		d.IncludeFencedBrokers, d.EndpointType = true, 1
		dc := ask[*kmsg.DescribeClusterResponse](t, c, d)
		if len(dc.Brokers) != 3 || dc.ClusterID != img.ClusterID || dc.ControllerID != img.Controller.NodeID || dc.Brokers[id-1].Rack == nil || *dc.Brokers[id-1].Rack != fmt.Sprint("rack-", id) || dc.Brokers[0].IsFenced {
			t.Errorf("node %d: %+v", id, dc)
		}

		q := kmsg.NewPtrDescribeQuorumRequest()
		qt := kmsg.NewDescribeQuorumRequestTopic()
		qt.Topic = clusterMetadataTopic
		qt.Partitions = append(qt.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
		q.Topics = append(q.Topics, qt)
		dq := ask[*kmsg.DescribeQuorumResponse](t, c, q)
		p := dq.Topics[0].Partitions[0]
		if dq.ErrorCode != 0 || p.LeaderID != img.Controller.NodeID || len(p.CurrentVoters) != 3 || len(p.Observers) != 0 || len(dq.Nodes) != 3 || p.HighWatermark < int64(img.Index) {
			t.Errorf("node %d: %+v", id, dq)
		}
		for _, v := range p.CurrentVoters {
			if v.LogEndOffset <= 0 || v.ReplicaDirectoryID == [16]byte{} {
				t.Errorf("node %d: %+v", id, v)
			}
		}

		fc := kmsg.NewPtrFindCoordinatorRequest()
		fc.CoordinatorKey, fc.CoordinatorKeys = "a group", []string{"a group"}
		found := ask[*kmsg.FindCoordinatorResponse](t, c, fc)
		if coordinator == nil {
			coordinator = found
			if o := f.agree(1, 2, 3).Topic(offsetsTopic); len(o.Partitions[0].Replicas) != 3 || !o.Internal {
				t.Errorf("%+v", o.Partitions[0])
			}
		}
		if found.Coordinators[0].ErrorCode != 0 || found.Coordinators[0].NodeID != coordinator.Coordinators[0].NodeID {
			t.Errorf("node %d: the coordinator is %+v, elsewhere %+v", id, found, coordinator)
		}

		for range 3 {
			r := ask[*kmsg.InitProducerIDResponse](t, c, kmsg.NewPtrInitProducerIDRequest())
			if r.ErrorCode != 0 || producers[r.ProducerID] {
				t.Errorf("node %d: producer id %d, code %d", id, r.ProducerID, r.ErrorCode)
			}
			producers[r.ProducerID] = true
		}

		own, other := fmt.Sprint(id), fmt.Sprint(id%3+1)
		for _, tc := range []struct {
			broker, name, value string
			want                error
		}{
			{own, "leader.replication.throttled.rate", "1000", nil},
			{other, "leader.replication.throttled.rate", "1000", kerr.InvalidRequest},
			{own, "min.insync.replicas", "1", kerr.InvalidConfig},
			{"", "min.insync.replicas", "2", nil},
			{own, "broker.rack", "elsewhere", kerr.InvalidConfig},
		} {
			r := ask[*kmsg.IncrementalAlterConfigsResponse](t, c, setBrokerConfig(tc.broker, tc.name, tc.value))
			wantCode(t, fmt.Sprintf("node %d: %s of %q", id, tc.name, tc.broker), r.Resources[0].ErrorCode, tc.want)
		}

		more := kmsg.NewPtrCreatePartitionsRequest()
		mt := kmsg.NewCreatePartitionsRequestTopic()
		mt.Topic, mt.Count = name, 6
		more.TimeoutMillis, more.Topics = 10_000, append(more.Topics, mt)
		wantCode(t, "more partitions", ask[*kmsg.CreatePartitionsResponse](t, c, more).Topics[0].ErrorCode, nil)
		f.agree(1, 2, 3)
		for _, at := range []int32{1, 2, 3} {
			m, err := kadm.NewClient(f.client(at)).Metadata(testContext(t), name)
			if err != nil || len(m.Topics[name].Partitions) != 6 || len(m.Topics[name].Partitions[5].Replicas) != 2 {
				t.Fatalf("node %d: %+v, %v", at, m.Topics, err)
			}
		}
		u := kmsg.NewPtrUnregisterBrokerRequest()
		u.BrokerID = id%3 + 1
		wantCode(t, "forget a live broker", ask[*kmsg.UnregisterBrokerResponse](t, c, u).ErrorCode, kerr.InvalidRequest)
		u.BrokerID = 77
		wantCode(t, "forget nobody", ask[*kmsg.UnregisterBrokerResponse](t, c, u).ErrorCode, kerr.BrokerIDNotRegistered)

		for level, want := range map[int16]error{int16(raft.MaxLevel): nil, 1: kerr.InvalidUpdateVersion, 99: kerr.InvalidUpdateVersion} {
			up := kmsg.NewPtrUpdateFeaturesRequest()
			fu := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
			fu.Feature, fu.MaxVersionLevel, fu.UpgradeType = levelFeature, level, 1
			up.TimeoutMillis, up.FeatureUpdates = 10_000, append(up.FeatureUpdates, fu)
			r := ask[*kmsg.UpdateFeaturesResponse](t, c, up)
			code := r.ErrorCode
			if len(r.Results) > 0 {
				code = r.Results[0].ErrorCode
			}
			wantCode(t, fmt.Sprint("level ", level), code, want)
		}

		if _, err := kadm.NewClient(c).DeleteTopics(testContext(t), name); err != nil {
			t.Fatal(err)
		}
		if f.agree(1, 2, 3).Topic(name) != nil {
			t.Errorf("node %d: a topic was not deleted", id)
		}
	}
}

func TestElectionsAndReassignments(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	f.start(bootstrap, 1, 2, 3)
	f.create(1, on("a", 3, 1, 2), on("b", 1))
	one := func(id int32, req *kmsg.ElectLeadersRequest) int16 {
		t.Helper()
		r := ask[*kmsg.ElectLeadersResponse](t, f.client(id), req)
		if r.ErrorCode != 0 || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
			t.Fatalf("%+v", r)
		}
		return r.Topics[0].Partitions[0].ErrorCode
	}
	wantCode(t, "the preferred one leads", one(2, elect(electPreferred, "a")), kerr.ElectionNotNeeded)
	wantCode(t, "there is a leader", one(2, elect(electUnclean, "a")), kerr.ElectionNotNeeded)
	wantCode(t, "no such topic", one(2, elect(electPreferred, "nothing")), kerr.UnknownTopicOrPartition)
	f.stopNode(3)
	f.agree(1, 2)
	wantCode(t, "the preferred one is away", one(2, elect(electPreferred, "a")), kerr.PreferredLeaderNotAvailable)

	// Another leader than the preferred one, by an operator's reassignment of the order; then back.
	f.create(1, on("c", 1, 2))
	code := func(id int32, req *kmsg.AlterPartitionAssignmentsRequest) int16 {
		t.Helper()
		r := ask[*kmsg.AlterPartitionAssignmentsResponse](t, f.client(id), req)
		if r.ErrorCode != 0 || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
			t.Fatalf("%+v", r)
		}
		return r.Topics[0].Partitions[0].ErrorCode
	}
	wantCode(t, "another order", code(2, reassign("c", []int32{2, 1}, false)), nil)
	f.agree(1, 2)
	if e := one(1, elect(electPreferred, "c")); e != 0 && e != kerr.ElectionNotNeeded.Code { // the controller may be faster
		t.Errorf("preferred election: %v", kerr.ErrorForCode(e))
	}
	if p := f.agree(1, 2).Partition("c", 0); p.Leader != 2 || !slices.Equal(p.Replicas, []int32{2, 1}) {
		t.Errorf("%+v", p)
	}

	// Node 3 is away: what is moved there stays under way.
	wantCode(t, "one replica more, not allowed", code(1, reassign("b", []int32{1, 3}, false)), kerr.InvalidReplicationFactor)
	wantCode(t, "one replica more", code(1, reassign("b", []int32{1, 3}, true)), nil)
	wantCode(t, "twice on one broker", code(1, reassign("b", []int32{1, 1}, true)), kerr.InvalidReplicaAssignment)
	wantCode(t, "on no broker", code(1, reassign("b", []int32{}, true)), kerr.InvalidReplicaAssignment)
	wantCode(t, "on an unknown broker", code(1, reassign("b", []int32{9}, true)), kerr.InvalidReplicaAssignment)
	wantCode(t, "of an unknown topic", code(1, reassign("nothing", []int32{1}, true)), kerr.UnknownTopicOrPartition)
	f.agree(1, 2)
	for _, id := range []int32{1, 2} {
		l := ask[*kmsg.ListPartitionReassignmentsResponse](t, f.client(id), kmsg.NewPtrListPartitionReassignmentsRequest())
		if len(l.Topics) != 1 || l.Topics[0].Topic != "b" || !slices.Equal(l.Topics[0].Partitions[0].AddingReplicas, []int32{3}) || !slices.Equal(l.Topics[0].Partitions[0].Replicas, []int32{1, 3}) {
			t.Errorf("node %d: %+v", id, l)
		}
	}
	if s, err := f.b(2).ClusterStatus(testContext(t)); err != nil || s.Partitions.Moving != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	wantCode(t, "cancelled", code(2, reassign("b", nil, true)), nil)
	f.agree(1, 2)
	wantCode(t, "cancelled twice", code(1, reassign("b", nil, true)), kerr.NoReassignmentInProgress)
	if p := f.agree(1, 2).Partition("b", 0); p.Reassigning() || !slices.Equal(p.Replicas, []int32{1}) {
		t.Errorf("%+v", p)
	}
}

func TestOperatorDrainsBalancesAndRemoves(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	f.start(bootstrap, 1, 2, 3)
	f.add(4)
	f.start(join, 4)
	f.create(1, newTopicRequest("spread", 6, 2))
	for i := range 6 {
		f.create(1, on(fmt.Sprint("heavy-", i), 1))
	}
	ctx := testContext(t)
	s, err := f.b(4).ClusterStatus(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all, reachable := s.Voters()
	late, _ := s.Node(4)
	first, _ := s.Node(1)
	if all != 3 || reachable != 3 || late.Voter || late.State != NodeLive || !late.Reachable || s.Controller < 1 || s.AnsweredBy != 4 || s.Partitions.Total != 12 || first.Leads < 6 {
		t.Fatalf("%+v", s)
	}
	if moves, err := f.b(2).ClusterBalance(ctx); err != nil || moves == 0 {
		t.Fatalf("%d moves, %v", moves, err)
	}

	// Drained: it leads nothing at once; what it holds can go only if others take it.
	victim := int32(2)
	if err := f.b(3).ClusterDrain(ctx, victim, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no leader of several replicas on a drained node", func() bool {
		img := f.b(1).meta.Image()
		for _, p := range img.Topic("spread").Partitions {
			if p.Leader == victim && len(p.ISR) > 1 {
				return false
			}
		}
		return img.Broker(victim).Draining
	})
	if err := f.b(3).ClusterDrain(ctx, victim, false); err != nil || f.b(3).meta.Image().Broker(victim).Draining {
		t.Fatal(err)
	}
	if err := f.b(3).ClusterDrain(ctx, 77, true); err == nil {
		t.Error("an unknown node was drained")
	}

	// A node that holds something is not removed by mistake; one that was drained is, and ends by itself.
	f.create(1, on("on-four", 4))
	produceN(t, f.client(1), "on-four", 0, 50)
	if err := f.b(1).ClusterRemove(ctx, 4, false); err == nil || !strings.Contains(err.Error(), "drain it first") {
		t.Fatalf("a node that holds a replica was removed: %v", err)
	}
	if err := f.b(1).ClusterDrain(ctx, 4, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an empty node", func() bool { return replicasOn(f.b(1).meta.Image(), 4) == 0 })
	consumeN(t, f.client(1, kgo.ConsumeTopics("on-four")), 50)
	if err := f.b(1).ClusterRemove(ctx, 4, false); err != nil {
		t.Fatal(err)
	}
	img, err := f.b(2).meta.Latest(ctx)
	if err != nil || !img.Replicas[5].Removed || img.Broker(4) != nil {
		t.Fatalf("%+v, %v", img.Replicas, err)
	}
	select {
	case err := <-f.b(4).Failed():
		if !errors.Is(err, raft.ErrRemoved) && !errors.Is(err, raft.ErrReplaced) && !errors.Is(err, errStale) {
			t.Errorf("a removed node ends with %v", err)
		}
	case <-ctx.Done():
		t.Fatal("a removed node goes on")
	}

	// One that is lost is removed by force: what it held is moved away, where others have it.
	f.create(1, on("on-three", 3, 1))
	f.stopNode(3)
	if err := f.b(1).ClusterRemove(ctx, 3, true); err != nil {
		t.Fatal(err)
	}
	if img, err = f.b(2).meta.Latest(ctx); err != nil || !img.Replicas[4].Removed || img.Broker(3) == nil || !img.Broker(3).Draining {
		t.Fatalf("%+v, %v", img.Replicas, err)
	}
	eventually(t, "another replica instead of the lost one", func() bool {
		p := f.b(1).meta.Image().Partition("on-three", 0)
		return !p.Reassigning() && !slices.Contains(p.Replicas, 3) && len(p.ISR) == 2
	})
	if err := f.b(1).ClusterRemove(ctx, 77, true); err == nil {
		t.Error("an unknown node was removed")
	}
	if err := f.b(1).ClusterPromote(ctx, 4); err == nil {
		t.Error("a removed node was promoted")
	}
	if err := f.b(1).ClusterFinalize(ctx, 0); err != nil {
		t.Error(err)
	}
	for _, level := range []int{1, 99} {
		if err := f.b(1).ClusterFinalize(ctx, level); err == nil {
			t.Errorf("level %d was finalised", level)
		}
	}
	if err := f.b(1).ClusterSetReplicationFactor(ctx, []string{"nothing"}, 2); err == nil {
		t.Error("an unknown topic got replicas")
	}
	if err := f.b(1).ClusterSetReplicationFactor(ctx, nil, 9); err == nil {
		t.Error("nine replicas on three nodes")
	}
}
