package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// newShellOf is a shell whose fake brokers answer some requests as told.
func newShellOf(t *testing.T, control map[kmsg.Key]func(kmsg.Request) (kmsg.Response, error, bool)) shell {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for key, f := range control {
		c.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			return f(req)
		})
	}
	return shell{t, strings.Join(c.ListenAddrs(), ",")}
}

func TestReplicaLists(t *testing.T) {
	got, err := parseReplicas(" 0:1,2,3; 1: 2,3,1;")
	if err != nil || !maps.EqualFunc(got, map[int32][]int32{0: {1, 2, 3}, 1: {2, 3, 1}}, slices.Equal) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"1,2,3", "0:", "0:1,x", "x:1", "0:1;0:2", "0:1,1", ";", "-1:2", "0:-1"} {
		if _, err := parseReplicas(bad); !isUsage(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTopicReassignMovesShowsAndCancels(t *testing.T) {
	var asked []kmsg.AlterPartitionAssignmentsRequestTopicPartition
	s := newShellOf(t, map[kmsg.Key]func(kmsg.Request) (kmsg.Response, error, bool){
		kmsg.AlterPartitionAssignments: func(r kmsg.Request) (kmsg.Response, error, bool) {
			req, resp := r.(*kmsg.AlterPartitionAssignmentsRequest), r.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
			rt := kmsg.NewAlterPartitionAssignmentsResponseTopic()
			rt.Topic = req.Topics[0].Topic
			for _, p := range req.Topics[0].Partitions {
				asked = append(asked, p)
				rp := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
				if rp.Partition = p.Partition; slices.Contains(p.Replicas, 9) {
					rp.ErrorCode, rp.ErrorMessage = kerr.InvalidReplicaAssignment.Code, kmsg.StringPtr("broker 9 is not registered")
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
			return resp, nil, true
		},
		kmsg.ListPartitionReassignments: func(r kmsg.Request) (kmsg.Response, error, bool) {
			resp := r.ResponseKind().(*kmsg.ListPartitionReassignmentsResponse)
			rt, rp := kmsg.NewListPartitionReassignmentsResponseTopic(), kmsg.NewListPartitionReassignmentsResponseTopicPartition()
			rt.Topic, rp.Partition, rp.Replicas, rp.AddingReplicas, rp.RemovingReplicas = "a", 1, []int32{2, 3, 1}, []int32{3}, []int32{1}
			rt.Partitions = append(rt.Partitions, rp)
			resp.Topics = append(resp.Topics, rt)
			return resp, nil, true
		},
	})
	s.run("topic", "create", "a", "-p", "2", "-r", "1")
	s.run("topic", "reassign", "a", "--replicas", "0:1,2;1:2,1")
	slices.SortFunc(asked, func(x, y kmsg.AlterPartitionAssignmentsRequestTopicPartition) int {
		return int(x.Partition - y.Partition)
	})
	if len(asked) != 2 || !slices.Equal(asked[0].Replicas, []int32{1, 2}) || !slices.Equal(asked[1].Replicas, []int32{2, 1}) {
		t.Errorf("asked for %+v", asked)
	}
	if _, _, err := s.try("", "topic", "reassign", "a", "--replicas", "0:9"); err == nil || !strings.Contains(err.Error(), "a:0: ") || !strings.Contains(err.Error(), "broker 9 is not registered") {
		t.Errorf("an unknown node: %v", err)
	}
	if out := s.run("topic", "reassign", "a"); !strings.Contains(out, "2,3,1") {
		t.Errorf("under way:\n%s", out)
	}
	asked = nil
	s.run("topic", "reassign", "a", "--cancel")
	if len(asked) != 1 || asked[0].Partition != 1 || asked[0].Replicas != nil {
		t.Errorf("cancelled %+v", asked)
	}
	if _, _, err := s.try("", "topic", "reassign", "a", "--cancel", "--replicas", "0:1"); !isUsage(err) {
		t.Errorf("both: %v", err)
	}
	if _, _, err := s.try("", "topic", "reassign", "none", "--replicas", "0:1"); err == nil || !strings.Contains(err.Error(), "none: UNKNOWN_TOPIC") {
		t.Errorf("an unknown topic: %v", err)
	}
}

func TestTopicElectLeaderTellsWhatFailed(t *testing.T) {
	var how []int8
	s := newShellOf(t, map[kmsg.Key]func(kmsg.Request) (kmsg.Response, error, bool){
		kmsg.ElectLeaders: func(r kmsg.Request) (kmsg.Response, error, bool) {
			req, resp := r.(*kmsg.ElectLeadersRequest), r.ResponseKind().(*kmsg.ElectLeadersResponse)
			how = append(how, req.ElectionType)
			rt := kmsg.NewElectLeadersResponseTopic()
			rt.Topic = "a"
			for _, p := range req.Topics[0].Partitions {
				rp := kmsg.NewElectLeadersResponseTopicPartition()
				rp.Partition = p
				switch p {
				case 0:
					rp.ErrorCode = kerr.ElectionNotNeeded.Code
				case 1:
					rp.ErrorCode, rp.ErrorMessage = kerr.PreferredLeaderNotAvailable.Code, kmsg.StringPtr("node 2 is fenced")
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
			return resp, nil, true
		},
	})
	s.run("topic", "create", "a", "-p", "3", "-r", "1")
	if _, _, err := s.try("", "topic", "elect-leader", "a"); err == nil || !strings.Contains(err.Error(), "a:1: PREFERRED_LEADER_NOT_AVAILABLE") || !strings.Contains(err.Error(), "node 2 is fenced") || strings.Contains(err.Error(), "a:0") {
		t.Errorf("error %v", err)
	}
	s.run("topic", "elect-leader", "a", "--partitions", "0,2", "--unclean")
	if !slices.Equal(how, []int8{0, 1}) {
		t.Errorf("kinds of election %v", how)
	}
}

func TestTopicDescribeShowsEligibleReplicas(t *testing.T) {
	answered := 0
	s := newShellOf(t, map[kmsg.Key]func(kmsg.Request) (kmsg.Response, error, bool){
		kmsg.DescribeTopicPartitions: func(r kmsg.Request) (kmsg.Response, error, bool) {
			req, resp := r.(*kmsg.DescribeTopicPartitionsRequest), r.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
			rt, rp := kmsg.NewDescribeTopicPartitionsResponseTopic(), kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
			rt.Topic = kmsg.StringPtr("a")
			if req.Cursor != nil {
				rp.Partition = req.Cursor.Partition
			}
			rp.EligibleLeaderReplicas = []int32{7, 8 + rp.Partition}
			rt.Partitions = append(rt.Partitions, rp)
			resp.Topics = append(resp.Topics, rt)
			if rp.Partition == 0 { // one partition an answer
				next := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
				next.Topic, next.Partition = "a", 1
				resp.NextCursor = &next
			}
			answered++
			return resp, nil, true
		},
	})
	s.run("topic", "create", "a", "-p", "2", "-r", "1")
	out := s.run("topic", "describe", "a")
	if answered == 0 {
		t.Fatal("the broker was not asked")
	}
	if !strings.Contains(out, "ELR") || !strings.Contains(out, "7,8") || !strings.Contains(out, "7,9") || answered != 2 {
		t.Errorf("%d answers\n%s", answered, out)
	}
	var rows []struct{ ELR []int32 }
	if err := json.Unmarshal([]byte(s.run("topic", "describe", "a", "--json")), &rows); err != nil || len(rows) != 2 || !slices.Equal(rows[1].ELR, []int32{7, 9}) {
		t.Errorf("%v %v", rows, err)
	}
}
