package group

import (
	"math"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestDescribeGroups(t *testing.T) {
	w := newWorld(t)
	for _, v := range []int16{0, 5, 6} {
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Groups = []string{"g", ""}
		token := w.newToken()
		w.take(w.s.DescribeGroups(w.now, token, Client{}, v, req))
		r := response[*kmsg.DescribeGroupsResponse](w, token)
		equal(t, "groups", len(r.Groups), 2)
		equal(t, "state", r.Groups[0].State, "Dead")
		equal(t, "error", r.Groups[0].ErrorCode, map[bool]int16{true: errGroupIDNotFound}[v >= 6])
		equal(t, "message", r.Groups[0].ErrorMessage != nil, v >= 6)
	}

	ids := w.stable("g", 2)
	d := w.describe("g")
	equal(t, "error", d.ErrorCode, errNone)
	equal(t, "state", d.State, "Stable")
	equal(t, "protocol type", d.ProtocolType, "consumer")
	equal(t, "protocol", d.Protocol, "range")
	equal(t, "operations", d.AuthorizedOperations, math.MinInt32)
	m := d.Members[1]
	equal(t, "member", m.MemberID, ids[1])
	equal(t, "client", m.ClientID, "client")
	equal(t, "host", m.ClientHost, "/10.0.0.1")
	equal(t, "metadata", string(m.ProtocolMetadata), subscribe("t"))
	equal(t, "assignment", string(m.MemberAssignment), "a1")

	w.joinTwice("g") // a rebalance
	d = w.describe("g")
	equal(t, "state", d.State, "PreparingRebalance")
	equal(t, "protocol", d.Protocol, "")
	equal(t, "metadata", len(d.Members[1].ProtocolMetadata), 0)
	equal(t, "assignment", string(d.Members[1].MemberAssignment), "a1")
}

func TestListGroups(t *testing.T) {
	w := newWorld(t)
	w.stable("stable", 1, session(time.Hour/2))
	w.commit("simple", "t", 0, 1)
	w.joinTwice("preparing")
	for _, c := range []struct {
		states, types []string
		want          []string
	}{
		{nil, nil, []string{"preparing PreparingRebalance consumer", "simple Empty ", "stable Stable consumer"}},
		{[]string{"stable"}, nil, []string{"stable Stable consumer"}},
		{[]string{" Empty", "PREPARINGREBALANCE"}, []string{"Classic"}, []string{"preparing PreparingRebalance consumer", "simple Empty "}},
		{[]string{"nonsense"}, nil, nil},
		{nil, []string{"consumer"}, nil},
		{nil, []string{"consumer", "classic"}, []string{"preparing PreparingRebalance consumer", "simple Empty ", "stable Stable consumer"}},
	} {
		req := kmsg.NewPtrListGroupsRequest()
		req.StatesFilter, req.TypesFilter = c.states, c.types
		token := w.newToken()
		w.take(w.s.ListGroups(w.now, token, Client{}, 5, req))
		r := response[*kmsg.ListGroupsResponse](w, token)
		equal(t, "groups", len(r.Groups), len(c.want))
		for i, g := range r.Groups {
			equal(t, "group", g.Group+" "+g.GroupState+" "+g.ProtocolType, c.want[i])
			equal(t, "type", g.GroupType, "classic")
		}
	}
}

func TestStats(t *testing.T) {
	w := newWorld(t)
	w.stable("g", 2)
	w.commit("h", "t", 0, 5)
	w.commit("h", "t", 1, 6)
	st := w.s.Stats()
	equal(t, "stable", st.Groups[Stable], 1)
	equal(t, "empty", st.Groups[Empty], 1)
	equal(t, "members", st.Members, 2)
	equal(t, "offsets", st.Offsets, 2)
	sum := int64(0)
	w.s.Committed(func(_, _ string, _ int32, offset int64) { sum += offset })
	equal(t, "committed", sum, int64(11))
}

func TestPartitionForIsJavas(t *testing.T) {
	// What java.lang.String.hashCode gives.
	for s, want := range map[string]int32{
		"": 0, "a": 97, "hello": 99162322,
		"polygenelubricants": math.MinInt32, "é": 233, "😀": 1772899,
	} {
		equal(t, s, javaHash(s), want)
	}
	equal(t, "no positive twin", PartitionFor("polygenelubricants", 50), int32(0))
	// Of a negative hash the absolute value counts.
	for _, s := range []string{"group", "my-group", "consumer.42", "zzzzzzz"} {
		h := int64(javaHash(s))
		equal(t, s, int64(PartitionFor(s, 50)), max(h, -h)%50)
	}
}

func TestUTF16Len(t *testing.T) {
	for s, want := range map[string]int{"": 0, "abc": 3, "é": 1, "😀": 2, "\xff": 1} {
		equal(t, s, utf16Len(s), want)
	}
}

// Every response can be written in every version that it is advertised with.
func TestResponsesEncodeInEveryVersion(t *testing.T) {
	for v := int16(0); v <= 9; v++ {
		w := newWorld(t)
		w.join("g", version(v), protocols())
		token := w.join("g", version(v))
		if v >= 4 {
			token = w.join("g", version(v), memberID(w.joined(token).MemberID))
		}
		w.sleep(10 * time.Second)
		w.wantJoin(token, errNone)
		for _, r := range w.replies {
			decoded := r.RequestKind().ResponseKind()
			decoded.SetVersion(v)
			if err := decoded.ReadFrom(r.AppendTo(nil)); err != nil {
				t.Fatalf("v%d: %v", v, err)
			}
		}
		equal(t, "version", w.joined(token).Version, v)
	}
}
