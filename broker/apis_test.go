package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"millrace/engine/batch"
	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafkaAPI is one API of the broker listener of Apache Kafka 4.3, with what is
// different here.
type kafkaAPI struct {
	key, min, max int16
	name, note    string
}

// kafkaAPIs is what APIS.md compares with.
var kafkaAPIs = []kafkaAPI{
	{0, 3, 13, "Produce", "0-2 are advertised, as Kafka does, for old librdkafka, and refused; transactional batches are refused"},
	{1, 4, 18, "Fetch", "from the leader only"},
	{2, 1, 11, "ListOffsets", ""},
	{3, 0, 13, "Metadata", ""},
	{8, 2, 10, "OffsetCommit", ""},
	{9, 1, 10, "OffsetFetch", ""},
	{10, 0, 6, "FindCoordinator", "of groups; transactions and share groups are refused"},
	{11, 0, 9, "JoinGroup", ""},
	{12, 0, 4, "Heartbeat", ""},
	{13, 0, 5, "LeaveGroup", ""},
	{14, 0, 5, "SyncGroup", ""},
	{15, 0, 6, "DescribeGroups", ""},
	{16, 0, 5, "ListGroups", ""},
	{17, 0, 1, "SaslHandshake", "no authentication yet"},
	{18, 0, 4, "ApiVersions", "a version above is answered in version 0 with error 35"},
	{19, 2, 7, "CreateTopics", ""},
	{20, 1, 6, "DeleteTopics", ""},
	{21, 0, 2, "DeleteRecords", ""},
	{22, 0, 5, "InitProducerId", "without a transactional id"},
	{23, 2, 4, "OffsetForLeaderEpoch", ""},
	{24, 0, 5, "AddPartitionsToTxn", "no transactions yet"},
	{25, 0, 4, "AddOffsetsToTxn", "no transactions yet"},
	{26, 0, 5, "EndTxn", "no transactions yet"},
	{27, 1, 2, "WriteTxnMarkers", "no transactions yet"},
	{28, 0, 5, "TxnOffsetCommit", "no transactions yet"},
	{29, 1, 3, "DescribeAcls", "no authorization yet"},
	{30, 1, 3, "CreateAcls", "no authorization yet"},
	{31, 1, 3, "DeleteAcls", "no authorization yet"},
	{32, 1, 4, "DescribeConfigs", ""},
	{33, 0, 2, "AlterConfigs", ""},
	{34, 1, 2, "AlterReplicaLogDirs", "there is one data directory"},
	{35, 1, 5, "DescribeLogDirs", ""},
	{36, 0, 2, "SaslAuthenticate", "no authentication yet"},
	{37, 0, 3, "CreatePartitions", ""},
	{38, 1, 3, "CreateDelegationToken", "no authentication yet"},
	{39, 1, 2, "RenewDelegationToken", "no authentication yet"},
	{40, 1, 2, "ExpireDelegationToken", "no authentication yet"},
	{41, 1, 3, "DescribeDelegationToken", "no authentication yet"},
	{42, 0, 2, "DeleteGroups", ""},
	{43, 0, 2, "ElectLeaders", "an unclean election takes the live replica whose log ends last"},
	{44, 0, 1, "IncrementalAlterConfigs", ""},
	{45, 0, 1, "AlterPartitionReassignments", ""},
	{46, 0, 0, "ListPartitionReassignments", ""},
	{47, 0, 0, "OffsetDelete", ""},
	{48, 0, 1, "DescribeClientQuotas", "no quotas yet"},
	{49, 0, 1, "AlterClientQuotas", "no quotas yet"},
	{50, 0, 0, "DescribeUserScramCredentials", "no authentication yet"},
	{51, 0, 0, "AlterUserScramCredentials", "no authentication yet"},
	{55, 0, 2, "DescribeQuorum", "offsets are raft indexes of the replicas' images"},
	{57, 0, 2, "UpdateFeatures", "of the feature metadata.level; Kafka's own are not claimed"},
	{60, 0, 2, "DescribeCluster", ""},
	{61, 0, 0, "DescribeProducers", ""},
	{64, 0, 0, "UnregisterBroker", "of a fenced broker without replicas whose node was removed from the quorum"},
	{65, 0, 0, "DescribeTransactions", "no transactions yet"},
	{66, 0, 2, "ListTransactions", "no transactions yet"},
	{68, 0, 1, "ConsumerGroupHeartbeat", "no KIP-848 groups yet"},
	{69, 0, 1, "ConsumerGroupDescribe", "no KIP-848 groups yet"},
	{71, 0, 0, "GetTelemetrySubscriptions", "no client telemetry"},
	{72, 0, 0, "PushTelemetry", "no client telemetry"},
	{74, 0, 1, "ListConfigResources", ""},
	{75, 0, 0, "DescribeTopicPartitions", ""},
	{76, 1, 1, "ShareGroupHeartbeat", "no share groups"},
	{77, 1, 1, "ShareGroupDescribe", "no share groups"},
	{78, 1, 2, "ShareFetch", "no share groups"},
	{79, 1, 2, "ShareAcknowledge", "no share groups"},
	{80, 0, 1, "AddRaftVoter", "nodes join by themselves and are promoted by their operator (millrace cluster)"},
	{81, 0, 0, "RemoveRaftVoter", "nodes are removed by their operator (millrace cluster)"},
	{83, 0, 0, "InitializeShareGroupState", "no share groups"},
	{84, 0, 0, "ReadShareGroupState", "no share groups"},
	{85, 0, 1, "WriteShareGroupState", "no share groups"},
	{86, 0, 0, "DeleteShareGroupState", "no share groups"},
	{87, 0, 1, "ReadShareGroupStateSummary", "no share groups"},
	{88, 0, 0, "StreamsGroupHeartbeat", "no streams groups"},
	{89, 0, 0, "StreamsGroupDescribe", "no streams groups"},
	{90, 0, 1, "DescribeShareGroupOffsets", "no share groups"},
	{91, 0, 0, "AlterShareGroupOffsets", "no share groups"},
	{92, 0, 0, "DeleteShareGroupOffsets", "no share groups"},
}

func versionRange(low, high int16) string {
	if low == high {
		return fmt.Sprint(low)
	}
	return fmt.Sprintf("%d-%d", low, high)
}

// apiDocument is APIS.md.
func apiDocument() string {
	var there, not strings.Builder
	for _, k := range kafkaAPIs {
		if row := lookup(k.key); row != nil {
			fmt.Fprintf(&there, "| %d | %s | %s | %s | %s |\n", k.key, k.name, versionRange(row.min, row.max), versionRange(k.min, k.max), k.note)
		} else {
			fmt.Fprintf(&not, "| %d | %s | %s | %s |\n", k.key, k.name, versionRange(k.min, k.max), k.note)
		}
	}
	return `# The Kafka APIs of this broker

Written by a test from the dispatch table (` + "`make docs`" + ` does it again). "Kafka" is the broker listener of Apache Kafka 4.3.
What is listed is advertised by ApiVersions and works as far as the remark says. Everything else closes the
connection, as in Kafka, except a version of ApiVersions that is not known: it is answered, so that the client can ask again.

| key | API | versions | Kafka | remark |
|---|---|---|---|---|
` + there.String() + `
Not there:

| key | API | Kafka | why |
|---|---|---|---|
` + not.String()
}

// MILLRACE_UPDATE=1 writes the document again.
func TestAPIsAreDocumented(t *testing.T) {
	want := apiDocument()
	if os.Getenv("MILLRACE_UPDATE") != "" {
		if err := os.WriteFile("APIS.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("APIS.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("APIS.md is not what the dispatch table says: make docs")
	}
	known := map[int16]kafkaAPI{}
	for _, k := range kafkaAPIs {
		known[k.key] = k
	}
	for _, row := range apis {
		if k, ok := known[row.key]; !ok || row.min < k.min || row.max > k.max {
			t.Errorf("api key %d, versions %s: Kafka has %s", row.key, versionRange(row.min, row.max), versionRange(k.min, k.max))
		}
	}
}

// apiCaller sends requests of an exact version on a connection of its own, with
// no client's logic between.
type apiCaller struct {
	t    *testing.T
	b    *Broker
	conn *rawConn
	adm  *kadm.Client
	id   [16]byte // of apisTopic
	seq  int
}

const apisTopic = "apis"

func newAPICaller(t *testing.T, mod ...func(*Options)) *apiCaller {
	b, _ := startBroker(t, t.TempDir(), mod...)
	c := client(t, b)
	produceN(t, c, apisTopic, 0, 10)
	a := &apiCaller{t: t, b: b, conn: dialRaw(t, b), adm: kadm.NewClient(c), id: b.meta.Image().Topic(apisTopic).ID}
	a.group() // makes the offsets topic
	return a
}

// call sends req in the version that it has and returns the answer, which must be
// decodable to its last byte.
func (a *apiCaller) call(req kmsg.Request) kmsg.Response {
	a.t.Helper()
	a.seq++
	if _, err := a.conn.Write(framed(req, int32(a.seq))); err != nil {
		a.t.Fatal(err)
	}
	corr, body, err := a.conn.receive(10 * time.Second)
	if err != nil || corr != int32(a.seq) {
		a.t.Fatalf("%s version %d: answer %d: %v", kmsg.NameForKey(req.Key()), req.GetVersion(), corr, err)
	}
	if req.IsFlexible() && req.Key() != 18 {
		if len(body) == 0 || body[0] != 0 {
			a.t.Fatalf("%s version %d: no tags in the header of the answer", kmsg.NameForKey(req.Key()), req.GetVersion())
		}
		body = body[1:]
	}
	resp := req.ResponseKind()
	if err := resp.ReadFrom(body); err != nil {
		a.t.Fatalf("%s version %d: %v: %x", kmsg.NameForKey(req.Key()), req.GetVersion(), err, body)
	}
	if again := resp.AppendTo(nil); len(again) != len(body) {
		a.t.Errorf("%s version %d: %d bytes came, %d were understood", kmsg.NameForKey(req.Key()), req.GetVersion(), len(body), len(again))
	}
	return resp
}

// fresh is a name that was not used before.
func (a *apiCaller) fresh(prefix string) string {
	a.seq++
	return fmt.Sprintf("%s-%d", prefix, a.seq)
}

// topic is a fresh topic.
func (a *apiCaller) topic() string {
	a.t.Helper()
	name := a.fresh("topic")
	if _, err := a.adm.CreateTopic(testContext(a.t), 1, 1, nil, name); err != nil {
		a.t.Fatal(err)
	}
	return name
}

// group is a fresh group with one committed offset.
func (a *apiCaller) group() string {
	a.t.Helper()
	name := a.fresh("group")
	var o kadm.Offsets
	o.AddOffset(apisTopic, 0, 5, -1)
	if err := a.adm.CommitAllOffsets(testContext(a.t), name, o); err != nil {
		a.t.Fatal(err)
	}
	return name
}

// join is a JoinGroup request, with the member id that the group wants from
// version 4 on.
func (a *apiCaller) join(group string, version int16) *kmsg.JoinGroupRequest {
	a.t.Helper()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.ProtocolType = version, group, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10_000, 10_000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", []byte{0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}
	req.Protocols = append(req.Protocols, p)
	if version >= 4 {
		r := a.call(req).(*kmsg.JoinGroupResponse)
		if r.ErrorCode != kerr.MemberIDRequired.Code || r.MemberID == "" {
			a.t.Fatalf("JoinGroup version %d: %+v", version, r)
		}
		req.MemberID = r.MemberID
	}
	return req
}

// member joins and syncs; it is the only member of a fresh group.
func (a *apiCaller) member() (group, id string, generation int32) {
	a.t.Helper()
	group = a.fresh("group")
	r := a.call(a.join(group, 5)).(*kmsg.JoinGroupResponse)
	if r.ErrorCode != 0 {
		a.t.Fatalf("JoinGroup: %+v", r)
	}
	if s := a.call(a.sync(group, r.MemberID, r.Generation, 3)).(*kmsg.SyncGroupResponse); s.ErrorCode != 0 {
		a.t.Fatalf("SyncGroup: %+v", s)
	}
	return group, r.MemberID, r.Generation
}

func (a *apiCaller) sync(group, id string, generation int32, version int16) *kmsg.SyncGroupRequest {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = version, group, id, generation
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	g := kmsg.NewSyncGroupRequestGroupAssignment()
	g.MemberID, g.MemberAssignment = id, []byte{1, 2, 3}
	req.GroupAssignment = append(req.GroupAssignment, g)
	return req
}

// valid makes a request that the broker must answer without an error.
func (a *apiCaller) valid(key, version int16) kmsg.Request {
	a.t.Helper()
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	switch r := req.(type) {
	case *kmsg.ProduceRequest:
		batch := batch.NewBuilder(0, 0)
		batch.Append(time.Now().UnixMilli(), []byte("k"), []byte("v"), nil)
		r.Acks, r.TimeoutMillis = -1, 10_000
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic, rt.TopicID = apisTopic, a.id
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = batch.Build()
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
	case *kmsg.FetchRequest:
		r.MaxWaitMillis, r.MinBytes, r.MaxBytes = 1000, 1, 1<<20
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic, rt.TopicID = apisTopic, a.id
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.PartitionMaxBytes = 1 << 20
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
	case *kmsg.ListOffsetsRequest:
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = apisTopic
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Timestamp = -1
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
	case *kmsg.MetadataRequest:
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(apisTopic)
		r.Topics = append(r.Topics, rt)
	case *kmsg.OffsetCommitRequest:
		r.Group, r.Generation, r.RetentionTimeMillis = a.fresh("group"), -1, -1
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = apisTopic, a.id
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Offset = 3
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
	case *kmsg.OffsetFetchRequest:
		r.Group = a.group()
		rt := kmsg.NewOffsetFetchRequestTopic()
		rt.Topic, rt.Partitions = apisTopic, []int32{0}
		r.Topics = append(r.Topics, rt)
		rg := kmsg.NewOffsetFetchRequestGroup()
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.TopicID, gt.Partitions = apisTopic, a.id, []int32{0}
		rg.Group, rg.Topics = r.Group, append(rg.Topics, gt)
		r.Groups = append(r.Groups, rg)
	case *kmsg.FindCoordinatorRequest:
		r.CoordinatorKey, r.CoordinatorKeys = "g", []string{"g", "h"}
	case *kmsg.JoinGroupRequest:
		return a.join(a.fresh("group"), version)
	case *kmsg.SyncGroupRequest:
		j := a.call(a.join(a.fresh("group"), 5)).(*kmsg.JoinGroupResponse)
		return a.sync(fmt.Sprintf("group-%d", a.seq-2), j.MemberID, j.Generation, version)
	case *kmsg.HeartbeatRequest:
		r.Group, r.MemberID, r.Generation = a.member()
	case *kmsg.LeaveGroupRequest:
		r.Group, r.MemberID, _ = a.member()
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = r.MemberID
		r.Members = append(r.Members, m)
	case *kmsg.DescribeGroupsRequest:
		g, _, _ := a.member()
		r.Groups = []string{a.group(), g}
	case *kmsg.ApiVersionsRequest:
		r.ClientSoftwareName, r.ClientSoftwareVersion = "test", "1"
	case *kmsg.CreateTopicsRequest:
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = a.fresh("topic"), 2, 1
		r.TimeoutMillis, r.Topics = 10_000, append(r.Topics, rt)
	case *kmsg.DeleteTopicsRequest:
		name := a.topic()
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = kmsg.StringPtr(name)
		r.TimeoutMillis, r.TopicNames, r.Topics = 10_000, []string{name}, append(r.Topics, rt)
	case *kmsg.DeleteRecordsRequest:
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic = apisTopic
		rp := kmsg.NewDeleteRecordsRequestTopicPartition()
		rp.Offset = 1
		rt.Partitions = append(rt.Partitions, rp)
		r.TimeoutMillis, r.Topics = 10_000, append(r.Topics, rt)
	case *kmsg.OffsetForLeaderEpochRequest:
		r.ReplicaID = -1
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = apisTopic
		rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rp.CurrentLeaderEpoch, rp.LeaderEpoch = -1, a.b.meta.Image().Topic(apisTopic).Partitions[0].LeaderEpoch
		rt.Partitions = append(rt.Partitions, rp)
		r.Topics = append(r.Topics, rt)
	case *kmsg.DescribeConfigsRequest:
		rr := kmsg.NewDescribeConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, apisTopic
		r.IncludeSynonyms, r.IncludeDocumentation, r.Resources = true, true, append(r.Resources, rr)
	case *kmsg.AlterConfigsRequest:
		rr := kmsg.NewAlterConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, a.topic()
		rc := kmsg.NewAlterConfigsRequestResourceConfig()
		rc.Name, rc.Value = "retention.ms", kmsg.StringPtr("1000000")
		rr.Configs = append(rr.Configs, rc)
		r.Resources = append(r.Resources, rr)
	case *kmsg.IncrementalAlterConfigsRequest:
		rr := kmsg.NewIncrementalAlterConfigsRequestResource()
		rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, a.topic()
		rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		rc.Name, rc.Value = "retention.ms", kmsg.StringPtr("1000000")
		rr.Configs = append(rr.Configs, rc)
		r.Resources = append(r.Resources, rr)
	case *kmsg.CreatePartitionsRequest:
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = a.topic(), 3
		r.TimeoutMillis, r.Topics = 10_000, append(r.Topics, rt)
	case *kmsg.DeleteGroupsRequest:
		r.Groups = []string{a.group()}
	case *kmsg.OffsetDeleteRequest:
		r.Group = a.group()
		rt := kmsg.NewOffsetDeleteRequestTopic()
		rt.Topic = apisTopic
		rt.Partitions = append(rt.Partitions, kmsg.NewOffsetDeleteRequestTopicPartition())
		r.Topics = append(r.Topics, rt)
	case *kmsg.ElectLeadersRequest:
		r.TimeoutMillis = 10_000 // of all partitions
	case *kmsg.AlterPartitionAssignmentsRequest:
		rt := kmsg.NewAlterPartitionAssignmentsRequestTopic()
		rt.Topic = apisTopic
		rp := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
		rp.Replicas = []int32{1}
		rt.Partitions = append(rt.Partitions, rp)
		r.TimeoutMillis, r.Topics = 10_000, append(r.Topics, rt)
	case *kmsg.DescribeQuorumRequest:
		rt := kmsg.NewDescribeQuorumRequestTopic()
		rt.Topic = clusterMetadataTopic
		rt.Partitions = append(rt.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
		r.Topics = append(r.Topics, rt)
	case *kmsg.UpdateFeaturesRequest:
		u := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
		u.Feature, u.MaxVersionLevel, u.UpgradeType = levelFeature, int16(a.b.meta.Image().Level), 1
		r.TimeoutMillis, r.FeatureUpdates = 10_000, append(r.FeatureUpdates, u)
	case *kmsg.UnregisterBrokerRequest:
		r.BrokerID = a.announced()
	case *kmsg.DescribeClusterRequest:
		r.EndpointType = 1
	case *kmsg.DescribeProducersRequest:
		rt := kmsg.NewDescribeProducersRequestTopic()
		rt.Topic, rt.Partitions = apisTopic, []int32{0}
		r.Topics = append(r.Topics, rt)
	case *kmsg.DescribeTopicPartitionsRequest:
		rt := kmsg.NewDescribeTopicPartitionsRequestTopic()
		rt.Topic = apisTopic
		r.ResponsePartitionLimit, r.Topics = 100, append(r.Topics, rt)
	case *kmsg.ListGroupsRequest, *kmsg.InitProducerIDRequest, *kmsg.DescribeLogDirsRequest, *kmsg.ListPartitionReassignmentsRequest,
		*kmsg.ListConfigResourcesRequest: // as they are
	default:
		a.t.Fatalf("no valid request for api key %d", key)
	}
	return req
}

// announced is a broker that registered once and is fenced for ever.
func (a *apiCaller) announced() int32 {
	a.t.Helper()
	r, err := a.b.meta.Propose(testContext(a.t), raft.RegisterBroker{
		ID: 99, DirectoryID: raft.NewUUID(), IncarnationID: raft.NewUUID(), Host: "nowhere", MaxLevel: raft.MaxLevel, Fenced: true, ReplaceDirectory: true,
	})
	if err = errors.Join(err, r.Err()); err != nil {
		a.t.Fatal(err)
	}
	return 99
}

// errorsIn finds the error codes and messages of an answer, wherever they are.
func errorsIn(v reflect.Value, path string) (all []string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return errorsIn(v.Elem(), path)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.Name == "ErrorCode" && v.Field(i).Int() != 0 {
				all = append(all, fmt.Sprintf("%s: %v", path, kerr.ErrorForCode(int16(v.Field(i).Int()))))
			} else if f.IsExported() {
				all = append(all, errorsIn(v.Field(i), path+"."+f.Name)...)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			all = append(all, errorsIn(v.Index(i), fmt.Sprintf("%s[%d]", path, i))...)
		}
	default: // holds no error
	}
	return all
}

// Whatever is advertised works in every version: a client takes the highest that
// both know and trusts it.
func TestEveryAdvertisedVersionAnswersAValidRequest(t *testing.T) {
	a := newAPICaller(t)
	for _, row := range apis {
		for v := row.min; v <= row.max; v++ {
			resp := a.call(a.valid(row.key, v))
			if bad := errorsIn(reflect.ValueOf(resp), kmsg.NameForKey(row.key)); len(bad) > 0 {
				t.Errorf("version %d: %v", v, bad)
			}
			a.judge(resp, v)
		}
	}
}

// judge looks for what an answer without an error code could still lack.
func (a *apiCaller) judge(resp kmsg.Response, v int16) {
	a.t.Helper()
	missing := func(what string) { a.t.Errorf("%s version %d: %s: %+v", kmsg.NameForKey(resp.Key()), v, what, resp) }
	switch r := resp.(type) {
	case *kmsg.FetchResponse:
		if len(r.Topics) != 1 || len(r.Topics[0].Partitions[0].RecordBatches) == 0 || v >= 13 && r.Topics[0].TopicID != a.id || v < 13 && r.Topics[0].Topic != apisTopic {
			missing("no records")
		}
	case *kmsg.ProduceResponse:
		if p := r.Topics[0].Partitions[0]; p.BaseOffset < 10 || v >= 13 && r.Topics[0].TopicID != a.id || v < 13 && r.Topics[0].Topic != apisTopic {
			missing("no offset")
		}
	case *kmsg.ListOffsetsResponse:
		if r.Topics[0].Partitions[0].Offset < 10 {
			missing("no offset")
		}
	case *kmsg.MetadataResponse:
		if len(r.Brokers) != 1 || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || v >= 10 && r.Topics[0].TopicID != a.id {
			missing("no topic")
		}
	case *kmsg.OffsetFetchResponse:
		if v < 8 && r.Topics[0].Partitions[0].Offset != 5 || v >= 8 && r.Groups[0].Topics[0].Partitions[0].Offset != 5 {
			missing("no offset")
		}
	case *kmsg.OffsetCommitResponse:
		if len(r.Topics) != 1 || v >= 10 && r.Topics[0].TopicID != a.id || v < 10 && r.Topics[0].Topic != apisTopic {
			missing("no topic")
		}
	case *kmsg.FindCoordinatorResponse:
		if v < 4 && r.Port <= 0 || v >= 4 && (len(r.Coordinators) != 2 || r.Coordinators[1].Port <= 0) {
			missing("no coordinator")
		}
	case *kmsg.SyncGroupResponse:
		if !bytes.Equal(r.MemberAssignment, []byte{1, 2, 3}) {
			missing("no assignment")
		}
	case *kmsg.DescribeGroupsResponse:
		if len(r.Groups) != 2 {
			missing("no group")
		}
	case *kmsg.ListGroupsResponse:
		if len(r.Groups) == 0 {
			missing("no groups")
		}
	case *kmsg.ApiVersionsResponse:
		if len(r.ApiKeys) != len(apis) {
			missing("no keys")
		}
		if v >= 3 && (len(r.FinalizedFeatures) != 1 || r.FinalizedFeatures[0].Name != levelFeature || r.FinalizedFeaturesEpoch <= 0) {
			missing("no level")
		}
	case *kmsg.DescribeQuorumResponse:
		if p := r.Topics[0].Partitions[0]; p.LeaderID != 1 || len(p.CurrentVoters) != 1 || p.CurrentVoters[0].LogEndOffset <= 0 {
			missing("no quorum")
		}
	case *kmsg.DescribeConfigsResponse:
		if len(r.Resources[0].Configs) < 20 {
			missing("no settings")
		}
	case *kmsg.DescribeLogDirsResponse:
		if len(r.Dirs) != 1 || len(r.Dirs[0].Topics) == 0 {
			missing("no topics")
		}
	case *kmsg.DescribeClusterResponse:
		if len(r.Brokers) != 1 {
			missing("no broker")
		}
	case *kmsg.DescribeProducersResponse:
		if len(r.Topics[0].Partitions[0].ActiveProducers) == 0 {
			missing("no producer")
		}
	case *kmsg.DescribeTopicPartitionsResponse:
		if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
			missing("no partition")
		}
	}
}

// What is not advertised closes its connection; nothing hangs, and nothing is
// answered in a form that the client did not ask for.
func TestNothingElseIsAnswered(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	ask := func(key, version int16) {
		f := binary.BigEndian.AppendUint16([]byte{0, 0, 0, 0}, uint16(key))
		f = binary.BigEndian.AppendUint16(f, uint16(version))
		f = append(f, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		binary.BigEndian.PutUint32(f, uint32(len(f)-4))
		c := dialRaw(t, b)
		defer func() { _ = c.Close() }()
		_, _ = c.Write(f)
		if _, body, err := c.receive(5 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("api key %d version %d: %v, %x", key, version, err, body)
		}
	}
	for key := int16(-1); key <= 110; key++ {
		row := lookup(key)
		switch {
		case row == nil:
			ask(key, 0)
			ask(key, 1)
		case key != 18:
			ask(key, row.min-1)
			ask(key, row.max+1)
			ask(key, 32767)
			ask(key, -1)
		}
	}
	ask(32767, 0)
	ask(-32768, 0)
	for _, v := range []int16{-1, 5, 99, 32767} {
		c := dialRaw(t, b)
		f := []byte{0, 0, 0, 10, 0, 18, byte(uint16(v) >> 8), byte(v), 0, 0, 0, 7, 0xff, 0xff}
		_, _ = c.Write(f)
		corr, body, err := c.receive(5 * time.Second)
		resp := kmsg.NewPtrApiVersionsResponse()
		if err == nil {
			err = resp.ReadFrom(body)
		}
		if err != nil || corr != 7 || resp.ErrorCode != errUnsupportedVersion || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].MaxVersion != 4 {
			t.Errorf("ApiVersions %d: %v, %d, %+v", v, err, corr, resp)
		}
		// The connection stays: the client asks again on it.
		_, _ = c.Write(framed(kmsg.NewPtrApiVersionsRequest(), 8))
		if corr, _, err := c.receive(5 * time.Second); corr != 8 || err != nil {
			t.Errorf("ApiVersions after %d: %d, %v", v, corr, err)
		}
	}
}

// From version 10 on offsets are of topic ids: one that nobody has is an error of
// its own, and what a group keeps of a deleted topic is not shown.
func TestOffsetsByTopicID(t *testing.T) {
	a := newAPICaller(t)
	commit := a.valid(8, 10).(*kmsg.OffsetCommitRequest)
	stranger := commit.Topics[0]
	stranger.TopicID = [16]byte{1, 2, 3}
	commit.Topics = append(commit.Topics, stranger)
	codes := map[[16]byte]int16{}
	for _, rt := range a.call(commit).(*kmsg.OffsetCommitResponse).Topics {
		codes[rt.TopicID] = rt.Partitions[0].ErrorCode
	}
	if len(codes) != 2 || codes[a.id] != 0 || codes[stranger.TopicID] != errUnknownTopicID {
		t.Errorf("commit: %v", codes)
	}
	fetch := a.valid(9, 10).(*kmsg.OffsetFetchRequest)
	unknown := fetch.Groups[0].Topics[0]
	unknown.TopicID = stranger.TopicID
	fetch.Groups[0].Group = commit.Group
	fetch.Groups[0].Topics = append(fetch.Groups[0].Topics, unknown)
	g := a.call(fetch).(*kmsg.OffsetFetchResponse).Groups[0]
	if len(g.Topics) != 2 || g.Topics[0].TopicID != a.id || g.Topics[0].Partitions[0].Offset != 3 || g.Topics[1].Partitions[0].ErrorCode != errUnknownTopicID {
		t.Errorf("fetch: %+v", g)
	}
	fetch.Groups[0].Topics = nil
	if g = a.call(fetch).(*kmsg.OffsetFetchResponse).Groups[0]; len(g.Topics) != 1 || g.Topics[0].TopicID != a.id {
		t.Errorf("fetch of all: %+v", g)
	}
	if _, err := a.adm.DeleteTopics(testContext(t), apisTopic); err != nil {
		t.Fatal(err)
	}
	if g = a.call(fetch).(*kmsg.OffsetFetchResponse).Groups[0]; len(g.Topics) != 0 || g.ErrorCode != 0 {
		t.Errorf("fetch of all after the topic was deleted: %+v", g)
	}
}
